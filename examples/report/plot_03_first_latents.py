"""
Figure 6 and table 1: the first latents, read
=============================================

What do the first 50 latents of student and autoencoder fire on? Ratings are a person's; what can be counted is how
often the strongest examples of a latent fall on one and the same token.

On few tokens here, so the numbers are rough; ``sparsedict replicate`` runs the same study in full.
"""

from sparsedict import studies

bench = studies.Bench.zoo(studies.SKETCH, progress=False)
study = studies.FirstLatents()
found = study.run(bench)
print(found)

# %%
# Whether latents with larger maxima are easier to explain by one token.
ax = found.draw("figure-06-maxima")
