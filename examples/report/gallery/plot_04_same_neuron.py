"""
Figures 7 and 8: encoder and decoder of simulators
==================================================

The agreement of the encoder, the decoder and the activation of simulators with those of the same neuron.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.SameNeuron().run(experiment)
print(found)

# %%
# Figure 7: cosines of encoder rows with the neurons nearest to the decoder rows.
found.draw("figure-07-encoder")

# %%
# Figure 7: cosines of decoder rows with the same neurons.
found.draw("figure-07-decoder")

# %%
# Figure 8: activations of the first simulator and its neuron.
found.draw("figure-08-scatter")
