"""
Much larger students
====================

The latents of students with many more latents per neuron.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.WiderStudents().run(experiment)
print(found)

# %%
# What its latents are.
found.draw("wider-types")

# %%
# Its error.
found.draw("wider-error")
