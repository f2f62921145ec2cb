"""
Figures 9 and 10: a toy model of one neuron
===========================================

The convergence of encoder and decoder in a student of a single neuron, with fixed and with free decoder norm, and
in sweeps of batch size, learning rate, width, weight decay and unevenness of the input.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.OneNeuron().run(experiment)
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
