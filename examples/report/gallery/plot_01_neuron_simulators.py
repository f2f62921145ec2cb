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
# Figure 2: cosine of each decoder row with the nearest neuron's, beside random directions.
found.draw("figure-02-decoder-similarity")

# %%
# Figure 3: the same for encoder rows.
found.draw("figure-03-encoder-similarity")

# %%
# Figure 4: how often latents fire.
found.draw("figure-04-firing-frequency")

# %%
# Figures 12, 13 and 14: the same for the layer before.
found.draw("figure-12-decoder-similarity")

# %%
# Its encoder rows.
found.draw("figure-13-encoder-similarity")

# %%
# How often its latents fire.
found.draw("figure-14-firing-frequency")
