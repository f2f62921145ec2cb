"""A process that saves is killed: what lies in the folder is the old dictionary or the new one."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import torch

import sparsedict as sd
from forks import Forked

SAVES = """
import sys, torch, sparsedict as sd
torch.set_num_threads(1)
coders = [sd.SparseAutoencoder(64, 4096, activation=sd.ReLU(), decoder_norm=sd.Free()) for _ in range(2)]
for index, coder in enumerate(coders):
    for weight in coder.parameters():
        weight.data.fill_(index + 1)
    coder.trained_on["number"] = index + 1
print("ready", flush=True)
n = 0
while True:
    coders[n % 2].save(sys.argv[1])
    n += 1
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_save_leaves_the_old_dictionary_or_the_new_one(tmp_path: Path) -> None:
    moments = random.Random(0)
    for _ in range(3):
        with Forked(SAVES, tmp_path) as process:
            process.stdout.readline()
            while not (tmp_path / "dictionary.safetensors").exists():
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.1))
            process.kill()
            assert process.wait() == -signal.SIGKILL
        loaded = sd.load(tmp_path)
        number = loaded.trained_on["number"]
        assert all(bool((weight == number).all()) for weight in loaded.parameters())
    torch.manual_seed(0)
    last = sd.SparseAutoencoder(4, 8, activation=sd.ReLU(), decoder_norm=sd.Free())
    last.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dictionary.json", "dictionary.safetensors"]
    assert torch.equal(sd.load(tmp_path).encoder, last.encoder)
