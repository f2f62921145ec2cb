"""Callbacks for TensorBoard and Weights & Biases."""

import warnings

import pytest
import torch

import sparsedict as sd
from sparsedict.training import callbacks


def train(callback) -> sd.History:
    torch.manual_seed(0)
    coder = sd.SparseAutoencoder(4, 8, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    return sd.fit(
        coder, torch.randn(256, 4), n_tokens=512, penalties=[sd.L1(0.1)], progress=False, callbacks=[callback]
    )


def test_weights_and_biases_receives_every_number():
    logged = []

    class Run:
        log = staticmethod(logged.append)

    history = train(callbacks.WeightsAndBiases(Run()))
    assert len(logged) == len(history)
    assert logged[-1]["fvu"] == history.last.fvu
    assert logged[-1]["penalty/L1"] == history.last.penalties["L1"]


def test_tensorboard_writes_events(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("tensorboard")
        callback = callbacks.TensorBoard(tmp_path)
        train(callback)
    assert any(path.stat().st_size > 0 for path in tmp_path.glob("events*"))
