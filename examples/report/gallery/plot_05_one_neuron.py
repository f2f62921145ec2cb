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
# Figure 9: decoder norm fixed at 1.
found.draw("figure-09-norm-held")

# %%
# Figure 10: free decoder norm.
found.draw("figure-10-norm-free")

# %%
# Final encoder cosine by inputs per step.
found.draw("toy-batch-size")

# %%
# By learning rate.
found.draw("toy-lr")

# %%
# By width of the input.
found.draw("toy-d")

# %%
# By weight decay, which a comment on the report suggested.
found.draw("toy-weight-decay")

# %%
# By unevenness of the input. With uneven inputs, the encoder cosine may be small although the activations agree.
found.draw("toy-unevenness")
