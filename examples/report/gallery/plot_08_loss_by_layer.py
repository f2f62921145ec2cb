"""
A comment's result: loss recovered in every layer
=================================================

The loss recovered by the student of each layer, and the share of simulators, for increasing L1 coefficients.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.LossByLayer().run(experiment)
print(found)

# %%
# Loss recovered.
found.draw("comment-loss-recovered")

# %%
# Simulators.
found.draw("comment-simulators")
