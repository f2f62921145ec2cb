"""
Figures 2, 3, 4: two kinds of latents
=====================================

Do a student's latents fall into neuron simulators, whose decoder rows are a neuron's, and sparse latents? The
report found about one simulator for each neuron, 29 % of its latents.
"""

from examples import report

bench = report.sketch_bench()
found = report.NeuronSimulators().run(bench)
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
