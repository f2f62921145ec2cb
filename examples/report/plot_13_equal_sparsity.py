"""
The negative result, at equal sparsity
======================================

The report's student was 3.06 times worse than its autoencoder. How do today's forms compare when both may use as
many latents, with and without a linear skip, and beside the skip alone?

On few tokens here, so the numbers are rough; ``sparsedict replicate`` runs the same study in full.
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
study = studies.EqualSparsity()
found = study.run(bench)
print(found)

# %%
# Error against active latents.
ax = found.draw("equal-sparsity-error")

# %%
# Loss recovered against active latents.
ax = found.draw("equal-sparsity-loss")
