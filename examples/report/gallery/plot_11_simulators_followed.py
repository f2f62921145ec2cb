"""
Simulators under a growing penalty
==================================

The fate of simulators as the L1 coefficient increases. Each student starts from the previous one, so that latents keep
their index.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.SimulatorsFollowed().run(experiment)
print(found)

# %%
# Their fates.
found.draw("followed-fates")

# %%
# How often they fire, as long as they live.
found.draw("followed-frequency")
