"""The predefined settings of a replication."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

from sparsedict.training import Cosine, LazyAdam

from .experiment import Experiment
from .setting import ADAM, Setting, Training

STANDARD = Setting(
    layer=-1,
    other_layer=-2,
    n_harvested=200_000,
    n_held_out=32_768,
    n_loss_tokens=100_000,
    expansion=4,
    expansions=(4, 16, 64),
    report=Training(200_000, 128, 5e-3),
    modern=Training(130_000, 256, 1e-2, Cosine(warm_up=0.2), LazyAdam, start="data"),
    wide=Training(100_000, 1024, 5e-3, Cosine(warm_up=0.2), None, start="data"),
    coefficient=0.4,
    coefficients=(0.05, 0.4, 1.0, 2.5, 6.0),
    autoencoder_coefficient=2.0,
    counts=(8, 32, 64),
    n_toy_steps=10_000,
)
"""The setting for the embedded model."""

QUICK = replace(
    STANDARD,
    n_harvested=72_000,
    n_held_out=8_192,
    n_loss_tokens=4_096,
    expansion=2,
    expansions=(4, 16),
    report=replace(STANDARD.report, n_tokens=72_000, lr=1e-2, start="data"),
    modern=replace(STANDARD.modern, n_tokens=20_000),
    wide=replace(STANDARD.wide, n_tokens=20_000, batch_size=512),
    coefficient=0.1,
    coefficients=(0.1, 2.0, 6.0),
    counts=(8, 32),
    n_toy_steps=1_000,
)
"""A setting for the embedded model for less than ten minutes on two cores. It shows trends but not exact numbers."""

SKETCH = replace(
    QUICK,
    n_harvested=16_000,
    n_held_out=8_192,
    n_loss_tokens=1_024,
    expansions=(1, 4),
    report=replace(QUICK.report, n_tokens=16_000, batch_size=64, lr=5e-3),
    modern=replace(QUICK.modern, n_tokens=16_000, batch_size=256),
    wide=replace(QUICK.wide, n_tokens=16_000, batch_size=256, lr=1e-2),
    coefficients=(0.1, 1.0, 10.0),
    n_toy_steps=500,
    n_seeds=2,
)
"""A setting for a single study of the embedded model that takes seconds, for a first look."""

C = 1_024
"""Conversion factor of coefficients: the report sums penalties over a batch of 1,024 tokens, instead of a mean."""

REPORT = Setting(
    layer=-1,
    other_layer=0,
    n_harvested=450_000_000,
    n_held_out=1_000_000,
    n_loss_tokens=100_000,
    expansion=4,
    expansions=(4, 16, 64),
    report=Training(4_000_000_000, 1024, 5e-5, Cosine(final=0.01), partial(ADAM, weight_decay=1e-4)),
    modern=Training(1_000_000_000, 1024, 3e-4, Cosine(warm_up=0.05), None, start="data"),
    wide=Training(1_000_000_000, 4096, 3e-4, Cosine(warm_up=0.05), None, start="data"),
    coefficient=2e-4 * C,
    coefficients=(1e-4 * C, 2e-4 * C, 3e-4 * C, 5e-4 * C, 7e-4 * C, 1e-3 * C, 2e-3 * C),
    autoencoder_coefficient=2e-4 * C,
    counts=(8, 16, 32, 64),
    n_toy_steps=10_000,
)
"""The setting of the report, for roneneldan/TinyStories-2Layers-33M on roneneldan/TinyStories, on an accelerator."""

REPORT_CONTEXT = 128
"""Tokens per sequence in the report."""


@cache
def sketch_experiment() -> Experiment:
    """Returns an experiment with the embedded model and the setting `SKETCH`, which is the same in the whole process.

    Studies that need the same dictionaries share them.
    """
    return Experiment.from_zoo(SKETCH, progress=False)
