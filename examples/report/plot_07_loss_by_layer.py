"""
A comment's result: loss recovered in every layer
=================================================

How much of the model's loss does the student of each layer keep as the penalty grows, and how many of its latents
are simulators then?

On few tokens here, so the numbers are rough; ``sparsedict replicate`` runs the same study in full.
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
study = studies.LossByLayer()
found = study.run(bench)
print(found)

# %%
# Loss recovered.
ax = found.draw("comment-loss-recovered")

# %%
# Simulators.
ax = found.draw("comment-simulators")
