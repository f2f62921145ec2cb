"""`benchmarks.tracing` reports the interventions of the graphs that it makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import tracing

import sparsedict as sd


def test_rows_are_those_of_the_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    tracing.main(["--prompts", "for i", "--max-latents", "24", "--out", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    assert "`'for i'`" in capsys.readouterr().out

    model, tokenizer = sd.zoo.load_model(), sd.zoo.load_tokenizer()
    sites = sd.circuits.find_sites(model)
    neurons = {name: site.neurons for name, site in sites.items()}
    (token,) = tokenizer(row["token"], add_special_tokens=False).input_ids
    ids = tokenizer("for i", return_tensors="pt").input_ids
    probability = model(ids).logits[0, -1].detach().softmax(-1)
    assert token == int(probability.argmax())
    assert row["probability"] == pytest.approx(float(probability[token]), rel=1e-4)
    graph = sd.circuits.attribute(sites, neurons, ids, targets=[token], max_latents=24, progress=False)
    assert graph.checked is not None
    assert row["correlation"] == pytest.approx(graph.checked.correlation, rel=1e-3)
    assert row["error"] == pytest.approx(graph.checked.median_relative_error, rel=1e-3)
    assert row["held"] == {held: pytest.approx(own, rel=1e-3) for held, *own in graph.checked.rows()[1:]}
    assert row["replacement"] == pytest.approx(graph.replacement_score, rel=1e-4)
