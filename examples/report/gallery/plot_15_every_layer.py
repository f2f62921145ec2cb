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
# The distiller's error over the autoencoder's, by layer.
found.draw("every-layer-ratio")
