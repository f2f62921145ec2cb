"""
Latents of a distiller and of an autoencoder
============================================

The latents that a distiller and an autoencoder of one MLP have in common, and those that only one of them has.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.TwoDictionaries().run(experiment)
print(found)

# %%
# Cosines with the nearest latent of another dictionary.
found.draw("shared-latents")
