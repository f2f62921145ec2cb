"""
Features of several layers
==========================

Autoencoders of the residual stream after each layer: are a layer's latents there in the layer before already?

On few tokens here, so the numbers are rough; ``sparsedict replicate`` runs the same study in full.
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
study = studies.ResidualStream()
found = study.run(bench)
print(found)

# %%
# Cosines with the nearest latent of the layer before.
ax = found.draw("residual-neighbours")
