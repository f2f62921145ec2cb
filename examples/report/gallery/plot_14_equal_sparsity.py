"""
The negative result, at equal sparsity
======================================

The error of the report's student is 3.06 times that of its autoencoder. This study compares modern dictionaries at the
same number of active latents, with and without a linear skip connection, and the skip connection alone.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.EqualSparsity().run(experiment)
print(found)

# %%
# Error of the distiller over that of the autoencoder.
found.draw("equal-sparsity-ratio")

# %%
# Error by number of active latents.
found.draw("equal-sparsity-error")
