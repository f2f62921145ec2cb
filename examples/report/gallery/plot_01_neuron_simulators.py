"""
Figures 2, 3, 4: two kinds of latents
=====================================

The latents of a student divide into neuron simulators, with decoder rows parallel to those of a neuron, and sparse
latents. The report found about one simulator per neuron, 29 % of the latents.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.NeuronSimulators().run(experiment)
print(found)

# %%
# Figure 2: cosines of decoder rows with the nearest neuron, compared with random directions.
found.draw("figure-02-decoder-similarity")

# %%
# Figure 3: cosines of encoder rows with the nearest neuron.
found.draw("figure-03-encoder-similarity")

# %%
# Figure 4: firing frequencies.
found.draw("figure-04-firing-frequency")

# %%
# Figures 12, 13 and 14: the same figures for the previous layer. First, decoder rows.
found.draw("figure-12-decoder-similarity")

# %%
# Encoder rows of the previous layer.
found.draw("figure-13-encoder-similarity")

# %%
# Firing frequencies of the previous layer.
found.draw("figure-14-firing-frequency")
