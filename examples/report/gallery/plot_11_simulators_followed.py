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
# Fates of the simulators.
found.draw("followed-fates")

# %%
# Firing frequencies of live simulators.
found.draw("followed-frequency")
