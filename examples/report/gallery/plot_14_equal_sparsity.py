"""
The negative result, at equal sparsity
======================================

The report's student was 3.06 times worse than its autoencoder. How do today's forms compare when both may use as
many latents, with and without a linear skip, and beside the skip alone?
"""

from examples import report

bench = report.sketch_bench()
found = report.EqualSparsity().run(bench)
print(found)

# %%
# The distiller's error over the autoencoder's.
found.draw("equal-sparsity-ratio")

# %%
# Error against active latents.
found.draw("equal-sparsity-error")
