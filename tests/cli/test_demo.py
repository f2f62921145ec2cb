from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparsedict import zoo

from .conftest import Run


@pytest.mark.filterwarnings("ignore:L0 of dictionary")  # two steps are too few for BatchTopK's threshold
def test_demo_in_small(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_rendering: None) -> None:
    # Any tokens will do here, and tokenising the standard library takes long.
    tokens = torch.randint(1, 4096, (6, 48))
    tokens[:, 0] = 0
    monkeypatch.setattr(zoo, "tokens", lambda split: tokens)
    small = ["demo", "--out", tmp_path / "run", "--n-tokens", "1k", "--layer", "1", "--seed", "3", "--device"]
    status, _, err = command(*small, "nowhere")
    assert status == 2
    assert "--device must be a device of this machine, such as cpu or cuda, got 'nowhere'" in err
    assert not (tmp_path / "run").exists()
    status, out, err = command(*small, "cpu")
    assert status == 0
    assert "device: cpu" in err
    assert not (tmp_path / "run" / ".lock").exists()
    assert "harvesting and training on 1,000 tokens" in err
    assert f"Open {tmp_path / 'run' / 'index.html'} in a browser." in out
    settings = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["site"], settings["n_latents"], settings["seed"]) == ("transformer.h.1.mlp", 2048, 3)


def test_rejects_a_folder_with_other_things_at_once(command: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    status, _, err = command("demo", "--out", tmp_path)
    assert status == 2
    assert "contains other files (mine)" in err
