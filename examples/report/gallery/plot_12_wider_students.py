"""
Much larger students
====================

What does a student find that has many more latents for each neuron?
"""

from examples import report

bench = report.sketch_bench()
found = report.WiderStudents().run(bench)
print(found)

# %%
# What its latents are.
found.draw("wider-types")

# %%
# Its error.
found.draw("wider-error")
