"""
Much larger students
====================

What does a student find that has many more latents for each neuron?
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
found = studies.WiderStudents().run(bench)
print(found)

# %%
# What its latents are.
found.draw("wider-types")

# %%
# Its error.
found.draw("wider-error")
