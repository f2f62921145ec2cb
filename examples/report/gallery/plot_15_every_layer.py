"""
The negative result, in every layer
===================================

Is a distiller worse than an autoencoder in every layer, with as many active latents?
"""

from examples import report

bench = report.sketch_bench()
found = report.EveryLayer().run(bench)
print(found)

# %%
# The distiller's error over the autoencoder's, by layer.
found.draw("every-layer-ratio")
