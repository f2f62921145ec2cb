"""
What a distiller finds, and what an autoencoder
===============================================

Which latents do a distiller and an autoencoder of one MLP share, and what are those that only one of them has?
"""

from examples import report

bench = report.sketch_bench()
found = report.TwoDictionaries().run(bench)
print(found)

# %%
# Cosines with the nearest latent of the other.
found.draw("shared-latents")
