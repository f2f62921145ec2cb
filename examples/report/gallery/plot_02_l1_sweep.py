"""
Figure 5: the sweep of the L1 coefficient
=========================================

What does a stronger penalty do to the error, to simulators, and to what is left without them? One pass over the
data trains all students of the sweep and the autoencoder beside them.
"""

from examples import report

bench = report.sketch_bench()
found = report.L1Sweep().run(bench)
print(found)

# %%
# Top: the error with all latents, and with those of one type alone, the others held at their means.
found.draw("figure-05-errors")

# %%
# Bottom: simulators and dead latents.
found.draw("figure-05-types")
