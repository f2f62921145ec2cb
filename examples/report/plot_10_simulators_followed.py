"""
What becomes of a simulator
===========================

Students that start each from the one before, under a stronger penalty: so a latent keeps its number and can be
followed. What do simulators turn into?

On few tokens here, so the numbers are rough; ``sparsedict replicate`` runs the same study in full.
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
study = studies.SimulatorsFollowed()
found = study.run(bench)
print(found)

# %%
# Their fates.
ax = found.draw("followed-fates")
