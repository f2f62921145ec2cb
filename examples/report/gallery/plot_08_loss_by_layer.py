"""
A comment's result: loss recovered in every layer
=================================================

How much of the model's loss does the student of each layer keep as the penalty grows, and how many of its latents
are simulators then?
"""

from examples import report

bench = report.sketch_bench()
found = report.LossByLayer().run(bench)
print(found)

# %%
# Loss recovered.
found.draw("comment-loss-recovered")

# %%
# Simulators.
found.draw("comment-simulators")
