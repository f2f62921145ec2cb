"""
Why sparse latents lie near neurons
===================================

The decoder rows of sparse latents too have a fairly high cosine with some neuron's. Is that more than chance, once
chance writes what the MLP writes?
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
found = studies.SparseDecoders().run(bench)
print(found)

# %%
# Beside three notions of chance.
found.draw("sparse-decoders")
