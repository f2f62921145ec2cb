"""
What a distiller finds, and what an autoencoder
===============================================

Which latents do a distiller and an autoencoder of one MLP share, and what are those that only one of them has?

On few tokens here, so the numbers are rough; ``sparsedict replicate`` runs the same study in full.
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
study = studies.TwoDictionaries()
found = study.run(bench)
print(found)

# %%
# Cosines with the nearest latent of the other.
ax = found.draw("shared-latents")
