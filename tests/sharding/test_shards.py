"""Sharded dictionaries on 1, 2 and 4 gloo ranks. The ranks are started once, and run all cases of this folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from parallel._cases import alone, data_of, new, train
from ranks import run_ranks
from sharding import _apart, _checkpoints, _mesh
from sharding._ranks import N_RANKS, run
from sparsedict.parallel import Alone

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forked")


def test_ranks_compute_what_one_process_computes(tmp_path: Path) -> None:
    # The forked ranks have the modules that this process imports at first use, and the results of one process.
    train(new(), data_of("distiller", new()), Alone(), n_tokens=60, checkpoint=tmp_path / "checkpoints")
    for name in _mesh.NAMES:
        alone(name)
    for kind in _checkpoints.KINDS:
        _checkpoints.alone(kind)
    _apart.alone()
    run_ranks(N_RANKS, run, tmp_path, limit=400)
    found: dict[str, str] = {}
    for rank in range(N_RANKS):
        for name, text in json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")).items():
            found[name] = found.get(name) or (f"rank {rank}: {text}" if text else "")
    failed = {name: text for name, text in found.items() if text}
    assert not failed, f"{len(failed)} of {len(found)} cases: {json.dumps(failed, indent=1)[:4000]}"
    assert len(found) > 150
