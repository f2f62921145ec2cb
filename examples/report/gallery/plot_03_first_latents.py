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
# Whether latents with larger maxima are easier to explain by one token.
found.draw("figure-06-maxima")
