"""Sharded dictionaries on 1, 2 and 4 gloo ranks. The ranks are started once, and run all cases of `_cases`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forked")


def test_ranks_compute_what_one_process_computes() -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.sharding._ranks"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    failed = {name: text for name, text in found.items() if text}
    assert not failed, f"{len(failed)} of {len(found)} cases: {json.dumps(failed, indent=1)[:4000]}"
    assert len(found) > 100
