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
# Figure 7: encoder rows against the neurons nearest to the decoder rows.
found.draw("figure-07-encoder")

# %%
# The same for decoder rows.
found.draw("figure-07-decoder")

# %%
# Figure 8: the first simulator's activation against its neuron's.
found.draw("figure-08-scatter")
