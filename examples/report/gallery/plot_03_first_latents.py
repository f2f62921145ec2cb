"""
Figure 6 and table 1: the first latents, read
=============================================

What do the first 50 latents of student and autoencoder fire on? Ratings are a person's; what can be counted is how
often the strongest examples of a latent fall on one and the same token.
"""

from examples import report

bench = report.sketch_bench()
found = report.FirstLatents().run(bench)
print(found)

# %%
# Whether latents with larger maxima are easier to explain by one token.
found.draw("figure-06-maxima")
