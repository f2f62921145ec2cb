"""
Features of several layers
==========================

Autoencoders of the residual stream after each layer: are a layer's latents there in the layer before already?
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
found = studies.ResidualStream().run(bench)
print(found)

# %%
# Cosines with the nearest latent of the layer before.
found.draw("residual-neighbours")

# %%
# What a linear map reads of the last layer's latents after each layer.
found.draw("residual-readable")
