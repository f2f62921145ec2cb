"""
What a distiller finds, and what an autoencoder
===============================================

Which latents do a distiller and an autoencoder of one MLP share, and what are those that only one of them has?
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
found = studies.TwoDictionaries().run(bench)
print(found)

# %%
# Cosines with the nearest latent of the other.
found.draw("shared-latents")
