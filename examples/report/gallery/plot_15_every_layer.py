"""
The negative result, in every layer
===================================

The errors of distillers and autoencoders in every layer, at the same number of active latents.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.EveryLayer().run(experiment)
print(found)

# %%
# Error of the distiller over that of the autoencoder, by layer.
found.draw("every-layer-ratio")
