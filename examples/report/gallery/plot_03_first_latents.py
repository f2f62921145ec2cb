"""
Figure 6 and table 1: examples of the first latents
===================================================

The strongest examples of the first 50 latents of a student and an autoencoder. The report rates them by hand. This
study counts the share of examples on the most frequent token of each latent.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.FirstLatents().run(experiment)
print(found)

# %%
# Maximum of each latent, and share of its examples on its most frequent token.
found.draw("figure-06-maxima")
