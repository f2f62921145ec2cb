"""
Why sparse latents lie near neurons
===================================

The decoder rows of sparse latents too have a fairly high cosine with some neuron's. Is that more than chance, once
chance writes what the MLP writes?
"""

from examples import report

bench = report.sketch_bench()
found = report.SparseDecoders().run(bench)
print(found)

# %%
# Beside three notions of chance.
found.draw("sparse-decoders")
