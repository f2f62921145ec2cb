"""
Figure 5: the sweep of the L1 coefficient
=========================================

The effect of the L1 coefficient on the error, the simulators, and the error without simulators. One pass over the
data trains all students of the sweep and an autoencoder.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.L1Sweep().run(experiment)
print(found)

# %%
# Top: error with all latents, and with latents of one type while the others are fixed at their means.
found.draw("figure-05-errors")

# %%
# Bottom: simulators and dead latents.
found.draw("figure-05-types")
