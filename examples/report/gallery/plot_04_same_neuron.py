"""
Figures 7 and 8: one neuron, read and written
=============================================

Do a simulator's encoder and decoder belong to the same neuron, and does its activation follow that neuron's?
"""

from examples import report

bench = report.sketch_bench()
found = report.SameNeuron().run(bench)
print(found)

# %%
# Figure 7: encoder rows against the neurons nearest to the decoder rows.
found.draw("figure-07-encoder")

# %%
# The same for decoder rows.
found.draw("figure-07-decoder")

# %%
# Figure 8: the first simulator's activation against its neuron's.
found.draw("figure-08-scatter")
