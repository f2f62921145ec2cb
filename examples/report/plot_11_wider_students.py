"""
Much larger students
====================

What does a student find that has many more latents for each neuron?

On few tokens here, so the numbers are rough; ``sparsedict replicate`` runs the same study in full.
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
study = studies.WiderStudents()
found = study.run(bench)
print(found)

# %%
# What its latents are.
ax = found.draw("wider-types")

# %%
# Its error.
ax = found.draw("wider-error")
