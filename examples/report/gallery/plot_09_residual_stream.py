"""
Features of several layers
==========================

Autoencoders of the residual stream after each layer: are a layer's latents there in the layer before already?
"""

from examples import report

bench = report.sketch_bench()
found = report.ResidualStream().run(bench)
print(found)

# %%
# Cosines with the nearest latent of the layer before.
found.draw("residual-neighbours")

# %%
# What a linear map reads of the last layer's latents after each layer.
found.draw("residual-readable")
