"""
Figure 11: a student with GELU latents
======================================

Do GELU latents become simulators more often, several for each neuron, and what causes these clusters: weight
decay, or decoder rows that are shorter than the neurons'?
"""

from examples import report

bench = report.sketch_bench()
found = report.GELUStudent().run(bench)
print(found)

# %%
# Decoder cosines of the student with most simulators.
found.draw("figure-11-gelu")

# %%
# How many simulators each neuron has.
found.draw("figure-11-clusters")
