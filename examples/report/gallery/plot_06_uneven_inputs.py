"""
Appendix A: why an encoder may be unlike its neuron's
=====================================================

The report's simulators have decoder rows like their neurons' and encoder rows that hardly resemble them. What does the
same MLP give when its inputs hardly vary along most directions?
"""

from examples import report

bench = report.sketch_bench()
found = report.UnevenInputs().run(bench)
print(found)

# %%
# Decoder cosines of the student on flat inputs.
found.draw("uneven-decoder-similarity")

# %%
# Its encoder cosines: the simulators are those by the decoder.
found.draw("uneven-encoder-similarity")
