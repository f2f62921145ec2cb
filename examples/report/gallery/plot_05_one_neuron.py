"""
Figures 9 and 10: a toy of one neuron
=====================================

Why is an encoder row harder to learn than a decoder row? A student of a single neuron, with its decoder's norm held
at 1 and free, and swept over batch size, learning rate, width, weight decay, and how unevenly the input varies.
"""

from examples import report

bench = report.sketch_bench()
found = report.OneNeuron().run(bench)
print(found)

# %%
# Figure 9: the norm held at 1.
found.draw("figure-09-norm-held")

# %%
# Figure 10: the norm free.
found.draw("figure-10-norm-free")

# %%
# What keeps the encoder off: by inputs per step.
found.draw("toy-batch-size")

# %%
# By learning rate.
found.draw("toy-lr")

# %%
# By width of the input.
found.draw("toy-d")

# %%
# By weight decay, which a comment on the report supposed to help.
found.draw("toy-weight-decay")

# %%
# By how unevenly the input varies: encoders may be off while activations are right.
found.draw("toy-unevenness")
