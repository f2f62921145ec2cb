"""
Figure 11: a student with GELU latents
======================================

Do GELU latents become simulators more often, several for each neuron, and does weight decay cause these clusters?

On few tokens here, so the numbers are rough; ``sparsedict replicate`` runs the same study in full.
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
study = studies.GELUStudent()
found = study.run(bench)
print(found)

# %%
# Decoder cosines of the student with most simulators.
ax = found.draw("figure-11-gelu")

# %%
# How many simulators each neuron has.
ax = found.draw("figure-11-clusters")
