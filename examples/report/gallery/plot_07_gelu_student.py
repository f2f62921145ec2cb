"""
Figure 11: a student with GELU latents
======================================

The share of simulators among GELU latents, and the cause of their clusters: weight decay, or decoder rows that are
shorter than those of the neurons.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.GELUStudent().run(experiment)
print(found)

# %%
# Decoder cosines of the student with GELU latents.
found.draw("figure-11-gelu")

# %%
# Number of simulators per neuron.
found.draw("figure-11-clusters")
