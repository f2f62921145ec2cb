"""
Why sparse latents lie near neurons
===================================

The decoder rows of sparse latents too have a fairly high cosine with some neuron's. Is that more than chance, once
chance writes what the MLP writes?

On few tokens here, so the numbers are rough; ``sparsedict replicate`` runs the same study in full.
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
study = studies.SparseDecoders()
found = study.run(bench)
print(found)

# %%
# Beside three notions of chance.
ax = found.draw("sparse-decoders")
