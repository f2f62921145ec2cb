"""Synthetic activations with known features.

`SyntheticFeatures` composes frequencies, a rule for which features are active together, a hierarchy, magnitudes and
noise. `TeacherMLP` computes known features from known features, and `SyntheticLayers` does so in several layers.
`stream` turns any of them into training data. `synth_sae_bench_16k` is a published setting.
"""

from sparsedict.data.synthetic._cofiring import Cofiring, Correlated, FixedCount, Independent
from sparsedict.data.synthetic._features import SyntheticFeatures
from sparsedict.data.synthetic._frequencies import Equal, Frequencies, PowerLaw
from sparsedict.data.synthetic._hierarchy import Hierarchy
from sparsedict.data.synthetic._layers import ComputedFeature, SyntheticLayers
from sparsedict.data.synthetic._magnitudes import Magnitudes, Normal, Uniform
from sparsedict.data.synthetic._published import synth_sae_bench_16k
from sparsedict.data.synthetic._stream import SyntheticStream, stream
from sparsedict.data.synthetic._teacher import TeacherMLP
from sparsedict.data.synthetic._truth import Truth

__all__ = [
    "Cofiring",
    "ComputedFeature",
    "Correlated",
    "Equal",
    "FixedCount",
    "Frequencies",
    "Hierarchy",
    "Independent",
    "Magnitudes",
    "Normal",
    "PowerLaw",
    "SyntheticFeatures",
    "SyntheticLayers",
    "SyntheticStream",
    "TeacherMLP",
    "Truth",
    "Uniform",
    "stream",
    "synth_sae_bench_16k",
]
