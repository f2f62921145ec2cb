"""
Features along the residual stream
==================================

Autoencoders of the residual stream after each layer, and the share of latents that the previous layer already has.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.ResidualStream().run(experiment)
print(found)

# %%
# Cosines with the nearest latent of the previous layer.
found.draw("residual-neighbours")

# %%
# Variance of the last layer's latents that a linear map explains from the stream after each layer.
found.draw("residual-readable")
