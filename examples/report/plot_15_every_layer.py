"""
The negative result, in every layer
===================================

Is a distiller worse than an autoencoder in every layer, with as many active latents?
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
found = studies.EveryLayer().run(bench)
print(found)

# %%
# The distiller's error over the autoencoder's, by layer.
found.draw("every-layer-ratio")
