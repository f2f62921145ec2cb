"""`synth_sae_bench_16k`, the published setting with 16,384 features."""

from __future__ import annotations

from sparsedict.data.synthetic._cofiring import Correlated
from sparsedict.data.synthetic._features import SyntheticFeatures
from sparsedict.data.synthetic._frequencies import PowerLaw
from sparsedict.data.synthetic._hierarchy import Hierarchy
from sparsedict.data.synthetic._magnitudes import Normal

N_FEATURES, D = 16_384, 768
LARGEST, SMALLEST, EXPONENT = 0.4, 5e-4, 0.5


def synth_sae_bench_16k(seed: int = 0) -> SyntheticFeatures:
    """Returns the setting of SynthSAEBench-16k: 16,384 features in 768 dimensions, about 34 of them active.

    Frequencies fall from 0.4 to 5e-4 with the power -0.5 of the rank. 10,880 features form 128 trees of depth 3 with 4
    exclusive children each, whose strengths are scaled by their parents'. Correlations have rank 25 and scale 0.1, mean
    strengths fall from 5 to 4, their standard deviations are ``|N(0.5, 0.5²)|``, and the bias has norm 0.5.

    The features are drawn anew from ``seed``. They aren't the released ones, so scores are comparable in distribution
    only. The released features also took 100 steps of an optimiser that lowers their cosines, which this setting leaves
    out. The published dictionaries have 4,096 latents and 200 million training tokens.

    Args:
        seed: Seed of the features, the correlations and the standard deviations of strengths.

    Source: Chanin and Garriga-Alonso, "SynthSAEBench: Evaluating Sparse Autoencoders on Scalable Realistic Synthetic
    Data", 2026, arXiv 2602.14687, and the configuration in the documentation of SAELens (version 2 of the model).

    Example:
        >>> truth = synth_sae_bench_16k()
        >>> truth.writes.shape, truth.hierarchy.starts[-1]
        (torch.Size([16384, 768]), 10880)
    """
    shape = PowerLaw(EXPONENT, ratio=LARGEST / SMALLEST)
    return SyntheticFeatures(
        D,
        N_FEATURES,
        # The sum of the probabilities before the hierarchy, such that the largest one is 0.4.
        float(SMALLEST * shape.weights(N_FEATURES).sum()),
        seed,
        frequencies=shape,
        cofiring=Correlated(rank=25, scale=0.1, seed=seed),
        hierarchy=Hierarchy(128, 4, 3, exclusive=True, scaled=True, compensated=True),
        magnitudes=Normal(5.0, 4.0, std=0.5, std_spread=0.5, seed=seed),
        bias_norm=0.5,
    )
