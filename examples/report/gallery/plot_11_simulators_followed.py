"""
What becomes of a simulator
===========================

Students that start each from the one before, under a stronger penalty: so a latent keeps its number and can be
followed. What do simulators turn into?
"""

from examples import report

bench = report.sketch_bench()
found = report.SimulatorsFollowed().run(bench)
print(found)

# %%
# Their fates.
found.draw("followed-fates")

# %%
# How often they fire, as long as they live.
found.draw("followed-frequency")
