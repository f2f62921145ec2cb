"""
Appendix A: encoder rows and uneven inputs
==========================================

The simulators of the report have decoder rows similar to those of their neurons, but different encoder rows. This study
trains students of the same MLP with inputs that hardly vary along most directions.
"""

from examples import report

experiment = report.sketch_experiment()
found = report.UnevenInputs().run(experiment)
print(found)

# %%
# Decoder cosines of the student on flat inputs.
found.draw("uneven-decoder-similarity")

# %%
# Encoder cosines of the same student. Types are determined by the decoder.
found.draw("uneven-encoder-similarity")
