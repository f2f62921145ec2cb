"""`sparsedict trace` writes the page of a graph of a finished run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import sparsedict as sd
from rendering import empty_images

from .conftest import Run


def data(folder: Path) -> dict[str, Any]:
    text = (folder / "data" / "graph.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix('sparsedict.receive("graph",').removesuffix(");\n"))


@pytest.fixture(scope="module")
def large_mlps(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose MLPs write more than its embeddings, so that latents are in the pruned graph."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".mlp." in name:
                weight.mul_(20)
    folder = tmp_path_factory.mktemp("large")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(large_mlps: Path, token_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int | str, Path]:
    """Runs of one site and of two, and of one cross-layer dictionary of two."""
    from sparsedict.cli import main

    root = tmp_path_factory.mktemp("runs")
    small = [
        "--n-tokens",
        "3k",
        "--batch-size",
        "64",
        "--lr",
        "0.03",
        "--n-latents",
        "24",
        "--k",
        "4",
        "--device",
        "cpu",
        "--held-out",
        "0.5",
        "--quiet",
    ]
    every = "model.layers.*.mlp"
    for n, sites, kind in (
        (1, "model.layers.0.mlp", "both"),
        (2, every, "both"),
        ("cross-layer", every, "cross-layer"),
        ("crosscoder", every, "crosscoder"),
    ):
        options = ["--site", sites, "--data", str(token_file), "--context", "16", "--kind", kind]
        with empty_images():
            assert main(["train", str(large_mlps), *options, *small, "--out", str(root / str(n))]) == 0
    return {n: root / str(n) for n in (1, 2, "cross-layer", "crosscoder")}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("others", ["neurons", "errors"])
def test_a_run_of_some_sites(command: Run, runs: dict[int | str, Path], tmp_path: Path, n: int, others: str) -> None:
    out = tmp_path / "graph"
    options = ["--ids", "--target", 7, "--out", out, "--device", "cpu", "--quiet", "--others", others]
    status, printed, err = command("trace", runs[n], "3,4,5,6", *options)
    assert status == 0, err
    assert "correlation" in printed
    assert str(out / "index.html") in printed
    found = data(out)
    assert found["layers"] == ["model.layers.0.mlp", "model.layers.1.mlp"]
    kinds = {(node[0], node[1]) for node in found["nodes"]}
    assert ("latent", 0) in kinds
    assert (("latent", 1) in kinds) is (n == 2 or others == "neurons")
    assert found["check"]["n"] > 0
    assert found["check"]["frozen"] < 0.01  # effects of an untrained model are near float32's rounding of its logits
    assert found["sources"] == [True, n == 2]
    assert json.loads((out / "data" / "latents" / "0.js").read_text().partition(",")[2].removesuffix(");\n"))
    assert (out / "circuit-tracer" / "graph.json").is_file()


def test_feature_files(command: Run, runs: dict[int | str, Path], tmp_path: Path) -> None:
    out = tmp_path / "graph"
    options = ["--ids", "--target", 7, "--out", out, "--device", "cpu", "--quiet", "--features"]
    status, _, err = command("trace", runs[2], "3,4,5,6", *options)
    assert status == 0, err
    nodes = json.loads((out / "circuit-tracer" / "graph.json").read_text(encoding="utf-8"))["nodes"]
    latents = {node["feature"] for node in nodes if node["feature_type"] == "cross layer transcoder"}
    files = {int(file.stem): file for file in (out / "circuit-tracer" / "features").iterdir()}
    assert latents
    assert set(files) == latents
    content = json.loads(files[min(latents)].read_text(encoding="utf-8"))
    assert content["examples_quantiles"][0]["examples"]
    assert content["top_logits"]


def test_a_cross_layer_run(command: Run, runs: dict[int | str, Path], tmp_path: Path) -> None:
    out, run = tmp_path / "graph", runs["cross-layer"]
    options = ["--ids", "--target", 7, "--out", out, "--device", "cpu", "--quiet", "--features"]
    status, printed, err = command("trace", run, "3,4,5,6", *options)
    assert status == 0, err
    assert "correlation" in printed
    found = data(out)
    assert found["layers"] == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert {node[1] for node in found["nodes"] if node[0] == "latent"} == {0, 1}
    assert found["sources"] == [True, True]
    assert found["check"]["frozen"] < 0.01
    # The examples are those of the latents' whole index: 24 latents in each layer.
    dictionary, records = sd.load(run / "cross-layer"), sd.pages.read_records(run / "latents")["cross-layer"]
    assert dictionary.n_latents == records.n_latents == 48
    nodes = json.loads((out / "circuit-tracer" / "graph.json").read_text(encoding="utf-8"))["nodes"]
    latents = [node for node in nodes if node["feature_type"] == "cross layer transcoder"]
    assert latents
    for node in latents:
        file = out / "circuit-tracer" / "features" / f"{node['feature']}.json"
        examples = json.loads(file.read_text(encoding="utf-8"))["examples_quantiles"][0]["examples"]
        index = int(node["node_id"].split("_")[1]) + 24 * int(node["layer"])
        highest = max(max(example["tokens_acts_list"]) for example in examples)
        assert highest == pytest.approx(float(records.act_max[index]), rel=1e-3)


def test_a_run_without_a_distiller(command: Run, runs: dict[int | str, Path], tmp_path: Path) -> None:
    options = ["--ids", "--out", tmp_path / "graph", "--device", "cpu", "--quiet"]
    status, _, err = command("trace", runs["crosscoder"], "3,4,5,6", *options)
    assert status == 2
    assert "it has only: crosscoder. Train with --kind distiller or cross-layer" in err


def test_feature_files_need_records(command: Run, runs: dict[int | str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    shutil.rmtree(run / "latents" / "records")
    options = ["--ids", "--out", tmp_path / "graph", "--device", "cpu", "--quiet", "--features"]
    status, _, err = command("trace", run, "3,4,5,6", *options)
    assert status == 2
    assert f"sparsedict pages {run}" in err
    assert not (tmp_path / "graph").exists()


def test_an_interruption_between_outputs_writes_neither(
    command: Run, runs: dict[int | str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    options = ["--ids", "--out", tmp_path / "graph", "--device", "cpu", "--quiet"]
    monkeypatch.setattr("sparsedict.cli.trace.write_circuit_tracer_graph", stopped)
    status, _, err = command("trace", runs[1], "3,4", *options)
    assert status == 130
    assert "nothing was written" in err
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_without_force(command: Run, runs: dict[int | str, Path], tmp_path: Path) -> None:
    options = ["--ids", "--out", tmp_path / "graph", "--device", "cpu", "--quiet"]
    assert command("trace", runs[1], "3,4", *options)[0] == 0
    before = data(tmp_path / "graph")
    status, _, err = command("trace", runs[1], "5,6", *options)
    assert status == 2
    assert "--out" in err
    assert "--force" in err
    assert data(tmp_path / "graph") == before
    assert command("trace", runs[1], "5,6", *options, "--force")[0] == 0
    assert data(tmp_path / "graph")["ids"] == [5, 6]


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("text", [], "PROMPT must have token ids"),
        ("3 x", ["--ids"], "PROMPT must have token ids"),
        ("", ["--ids"], "PROMPT must have token ids"),
        ("3,99", ["--ids"], "PROMPT"),
        ("3,4", ["--ids", "--target", 99], "--target"),
        ("3,4", ["--ids", "--target", "5,6"], "--target must be one token id with --ids, got '5,6'"),
        ("3,4", ["--ids", "--target", "x"], "--target must have token ids"),
    ],
)
def test_bad_input(
    command: Run, runs: dict[int | str, Path], tmp_path: Path, prompt: str, options: list[Any], message: str
) -> None:
    status, _, err = command("trace", runs[1], prompt, *options, "--out", tmp_path / "x", "--device", "cpu", "--quiet")
    assert status == 2
    assert message in err
    assert "`" not in err
    assert not (tmp_path / "x").exists()


def test_another_folder_is_rejected(command: Run, tmp_path: Path) -> None:
    status, _, err = command("trace", tmp_path, "text", "--out", tmp_path / "x")
    assert status == 2
    assert "RUN must be the folder of a finished run" in err
