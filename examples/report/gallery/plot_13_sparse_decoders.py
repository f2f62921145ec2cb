"""
Why sparse latents lie near neurons
===================================

The decoder rows of sparse latents also have fairly large cosines with neurons. This study compares them with three
null distributions.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.SparseDecoders().run(experiment)
print(found)

# %%
# Cosines compared with three null distributions.
found.draw("sparse-decoders")
