"""
Features of several layers
==========================

Distillers of single layers compared with a cross-layer distiller, whose latents also write to later layers.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.SeveralLayers().run(experiment)
print(found)

# %%
# Error in each layer, at the same number of active latents.
found.draw("several-layers-fvu")
