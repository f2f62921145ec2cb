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
# Types of latents by width.
found.draw("wider-types")

# %%
# Error by width.
found.draw("wider-error")
