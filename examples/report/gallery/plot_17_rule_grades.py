"""
Table 1 without readers: grades by rules
========================================

The best simple rule about tokens of each latent, found on one half of held-out text and measured on the other half. Its
F1 gives a grade from 0 to 4, without readers.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.RuleGrades().run(experiment)
print(found)

# %%
# Maximum of each latent, and F1 of its best rule.
found.draw("table-01-rules")
