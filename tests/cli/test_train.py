from __future__ import annotations

import argparse
import errno
import json
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import sparsedict as sd
from sparsedict import studies
from sparsedict.cli._train_options import KINDS, add_options
from sparsedict.cli.train import parallel_of_environment, recipes_of
from sparsedict.training._loop import Loop

from .conftest import Run

SMALL = ["--n-tokens", "600", "--context", "16", "--quiet", "--batch-size", "64", "--k", "4"]


@pytest.fixture
def with_figures(model_folder: Path, token_file: Path, tmp_path: Path) -> list[object]:
    given = ["--site", "model.layers.1.mlp", "--data", token_file, "--out", tmp_path / "run"]
    return ["train", model_folder, *given, *SMALL]


@pytest.fixture
def start(with_figures: list[object], no_rendering: None) -> list[object]:
    return with_figures


def test_writes_everything_and_prints_the_paths(with_figures: list[object], command: Run, tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(json.dumps([f"<{i}>" for i in range(64)]))
    status, out, err = command(*with_figures, "--vocabulary", tmp_path / "v.json")
    assert status == 0
    # No bars, but what is being done is said.
    assert err.splitlines()[:2] == ["device: cpu", "harvesting and training on 600 tokens ..."]
    assert "%" not in err
    run = tmp_path / "run"
    pages = ("index.html", "latents/index.html", "results.json", "table.txt", "figures")
    for name in ("metrics.jsonl", *pages, "distiller", "autoencoder"):
        assert str(run / name) in out
        assert (run / name).exists()
    settings = json.loads((run / "results.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["n_latents"], settings["left_out_tokens"]) == (48, [1])
    assert (run / "table.txt").read_text(encoding="utf-8") in out
    assert sd.load(run / "distiller").n_latents == 48
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["dictionary"], line["step"]) for line in records] == [
        (kind, step) for step in range(1, 11) for kind in ("distiller", "autoencoder")
    ]


def test_the_settings_are_recorded(start: list[object], command: Run, tmp_path: Path) -> None:
    assert command(*start, "--autocast")[0] == 0
    settings = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["settings"]
    lr = {name: sd.load(tmp_path / "run" / name).trained_on["lr"] for name in ("distiller", "autoencoder")}
    assert lr["distiller"] == pytest.approx(1.5 * lr["autoencoder"])
    assert settings["recipe"]["lr"] == lr
    assert settings["recipe"]["optimizer"] == {
        "distiller": "LazyAdam(betas=(0.9, 0.98))",
        "autoencoder": "LazyAdam",
    }
    assert settings["recipe"]["batch_size"] == 64
    assert (settings["device"], settings["dtype"], settings["model_dtype"]) == ("cpu", "float32", "float32")
    assert (settings["autocast"], settings["seed"], settings["n_tokens_trained"]) == ("bfloat16", 0, 640)
    assert settings["environment"]["versions"]["torch"] == torch.__version__
    page = (tmp_path / "run" / "index.html").read_text(encoding="utf-8")
    assert f"distiller {lr['distiller']}, autoencoder {lr['autoencoder']}" in page
    assert "torch " + torch.__version__ in page
    assert "<td>None" not in page


def files(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_nothing_finished_is_replaced_unless_forced(start: list[object], command: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command(*start)[0] == 0
    before = files(run)
    for others in ([], ["--kind", "autoencoder"], ["--kind", "autoencoder", "--resume"]):
        status, out, err = command(*start, *others)
        assert (status, out) == (2, "")
        assert "finished" in err
        assert files(run) == before
    assert "--kind was 'both' and is 'autoencoder'" in err
    # What goes wrong before training, or in its first step, leaves the earlier result where it was.
    for others in (["--site", "model.layers.9.mlp"], ["--data", "./gone.npy"], ["--lr", "1e300"]):
        assert command(*start, "--force", *others)[0] in (1, 2)
        if others[0] != "--lr":
            assert files(run) == before
    assert command(*start, "--kind", "autoencoder", "--n-latents", 10, "--force")[0] == 0
    assert sd.load(run / "autoencoder").n_latents == 10
    assert not (run / "distiller").exists()
    assert not (run / "replaced-result").exists()


def test_a_finished_run_is_not_trained_again(start: list[object], command: Run, tmp_path: Path) -> None:
    assert command(*start)[0] == 0
    before = files(tmp_path / "run")
    for others in (["--resume"], ["--resume", "--force"], ["--resume", "--threads", "1", "--checkpoint-every", "5"]):
        status, out, _ = command(*start, *others)
        assert status == 0
        assert "This run is already finished" in out
        assert files(tmp_path / "run") == before


def test_a_forced_run_that_is_stopped_keeps_the_earlier_result(
    start: list[object], command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert command(*start)[0] == 0
    before = files(run)
    with stopping(4, signal.SIGTERM, monkeypatch):
        assert command(*start, "--lr", "0.001", "--force")[0] == 143
    assert {name: files(run / "replaced-result").get(name) for name in before} == before
    status, _, err = command(*start)
    assert status == 2
    assert "The earlier result is in" in err
    assert command(*start, "--lr", "0.001", "--resume")[0] == 0
    assert not (run / "replaced-result").exists()
    assert json.loads((run / "run.json").read_text())["options"]["--lr"] == 0.001


def test_two_runs_in_one_folder(start: list[object], command: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    code = (
        "import sys, pathlib; from sparsedict.storage import take_lock; "
        "lock = take_lock(pathlib.Path(sys.argv[1]) / '.lock'); print('locked', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    for others in ([], ["--force"], ["--resume"]):
        status, _, err = command(*start, *others)
        assert status == 2
        assert "--out must be a folder that no other process uses, but another process uses" in err
    other.communicate("")
    assert command(*start)[0] == 0


def test_a_folder_named_checkpoints_of_somebody_else(start: list[object], command: Run, tmp_path: Path) -> None:
    theirs = tmp_path / "run" / "checkpoints" / "step-1000" / "model.pt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    assert "contains other files (checkpoints)" in command(*start)[2]
    assert command(*start, "--force")[0] == 0
    assert theirs.read_text() == "theirs"


@pytest.mark.parametrize(
    ("option", "paths"),
    [
        (["--site", "model.layers.[1-9].mlp, model.layers.0.mlp"], ["model.layers.1.mlp", "model.layers.0.mlp"]),
        (["--site", "model.layers.[1-9].mlp"], ["model.layers.1.mlp"]),
    ],
)
def test_several_sites_in_one_pass(
    option: list[str], paths: list[str], start: list[object], command: Run, tmp_path: Path
) -> None:
    at = start.index("--site")
    start[at : at + 2] = option
    status, _, err = command(*start)
    assert status == 0, err
    run = tmp_path / "run"
    if len(paths) == 1:
        assert sd.load(run / "distiller").trained_on["site"] == paths[0]
        return
    for path in paths:
        assert sd.load(run / path / "distiller").trained_on["site"] == path
        assert (run / path / "index.html").is_file()
        assert path in (run / "index.html").read_text(encoding="utf-8")
        assert f"{path}  autoencoder" in (run / "table.txt").read_text(encoding="utf-8")
    names = {json.loads(line)["dictionary"] for line in (run / "metrics.jsonl").read_text().splitlines()}
    assert names == {f"{path}/{kind}" for path in paths for kind in ("distiller", "autoencoder")}
    assert list(json.loads((run / "results.json").read_text(encoding="utf-8"))) == paths
    page = (run / "index.html").read_text(encoding="utf-8")
    assert f'<a href="{paths[0]}/index.html">{paths[0]}</a>' in page
    assert "<dt>site</dt>" not in page
    assert "<dt>batch size</dt><dd>64</dd>" in page
    for column in ("Recovered", "Never fired", "Simulators"):
        assert f"{column}: " in page
    assert f"{paths[0]}: measuring the distiller on held-out tokens ..." in err


def joint(start: list[object], kind: str, *options: object) -> list[object]:
    at = start.index("--site")
    # In another order than that of the model.
    return [*start[:at], "--site", "model.layers.1.mlp,model.layers.0.mlp", *start[at + 2 :], "--kind", kind, *options]


def test_the_option_has_all_kinds() -> None:
    assert tuple(studies.KINDS) == KINDS


@pytest.mark.parametrize("kind", [name for name, own in studies.KINDS.items() if own.is_joint])
def test_one_dictionary_of_several_sites(
    kind: str, with_figures: list[object], command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, paths = tmp_path / "run", ["model.layers.0.mlp", "model.layers.1.mlp"]
    start = joint(with_figures, kind)
    status, out, err = command(*start)
    assert status == 0, err
    for name in ("index.html", "latents/index.html", "results.json", "table.txt", "metrics.jsonl", kind):
        assert str(run / name) in out
    found = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert found["settings"]["sites"] == paths
    assert list(found["results"][kind]["sites"]) == paths
    assert found["results"][kind]["n_dead"] == sum(not n for n in found["results"][kind]["latents"]["firing_counts"])
    dictionary = sd.load(run / kind)
    assert list(dictionary.writes) == [f"{path}.outputs" for path in paths]
    assert dictionary.n_latents == (48 if kind == "crosscoder" else 96)
    assert dictionary.trained_on["sites"] == paths
    assert "all at once" in (run / "table.txt").read_text(encoding="utf-8")
    # Nothing finished is trained again or replaced, and a stopped run has the same result.
    assert "already finished" in command(*start, "--resume")[1]
    assert "contains a finished result" in command(*start)[2]
    with stopping(4, signal.SIGTERM, monkeypatch):
        assert command(*start, "--force")[0] == 143
    assert "--kind" in command(*start[:-1], "distiller", "--resume")[2]
    assert command(*start, "--resume")[0] == 0
    assert torch.equal(sd.load(run / kind).encoder, dictionary.encoder)


def test_cheap_checks_come_before_the_weights(
    start: list[object], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("sparsedict.cli.train.load_model", never)
    for others, words in (
        (["--site", "model.layers.9.mlp"], "--site must name a module"),
        (["--site", "model.layers.*.mpl"], "Similar names: 'model.layers.1.mlp'"),
        (["--data", "./gone.npy"], "--data"),
        (["--held-out", "./gone.npy"], "--held-out"),
        (["--k", "49"], "--k must be at most the number of latents, 48 (see --expansion), got 49"),
        (["--n-latents", "3"], "--k must be at most the number of latents, 3 (see --n-latents), got 4"),
        (["--exclude-tokens", "64"], "--exclude-tokens must be ids of the model, from 0 to 63, got 64."),
        (["--vocabulary", "gone.json"], "--vocabulary must be a JSON file, but there is no file 'gone.json'"),
    ):
        status, _, err = command(*with_site(start, others))
        assert status == 2
        assert words in err.splitlines()[-1]


def with_site(start: list[object], others: list[str]) -> list[object]:
    """Returns the options with these in the place of theirs, for `--site` adds up."""
    at = start.index("--site")
    return [*(start if others[0] != "--site" else start[:at] + start[at + 2 :]), *others]


def test_the_mlp_of_a_block_is_named(start: list[object], command: Run) -> None:
    status, _, err = command(*with_site(start, ["--site", "model.layers.1"]))
    assert status == 2
    assert (
        "--site must be an MLP, but 'model.layers.1' is a block that contains one. Use --site model.layers.1.mlp" in err
    )
    assert "warning" not in err


def test_a_path_of_no_mlp_is_named_with_the_mlps(start: list[object], command: Run) -> None:
    status, _, err = command(*with_site(start, ["--site", "model.layers.1.self_attn"]))
    assert status == 2
    assert "--site must be an MLP with a known number of neurons" in err
    assert "'model.layers.1.mlp'" in err
    assert "Add --n-latents" in err
    assert "Site(" not in err


def test_an_mlp_that_is_spread_over_two_modules(start: list[object], command: Run, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "hidden_size": 16, "ffn_dim": 40, "word_embed_proj_dim": 16}
    config = transformers.OPTConfig(**sizes, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64)
    transformers.OPTForCausalLM(config).save_pretrained(tmp_path / "opt")
    start[1] = tmp_path / "opt"
    two = [f"model.decoder.layers.{n}.fc1..model.decoder.layers.{n}.fc2" for n in (0, 1)]
    status, _, err = command(*with_site(start, ["--site", "model.decoder.layers.1.fc1"]))
    assert status == 2
    assert f"MLPs in this model: {two[0]!r}; {two[1]!r}." in err
    status, _, err = command(*with_site(start, ["--site", "model.decoder.layers.*.fc1..model.decoder.layers.1.fc2"]))
    assert status == 2
    assert "--site must have the same number of * before and after '..'" in err
    assert command(*with_site(start, ["--site", "model.decoder.layers.*.fc1..model.decoder.layers.*.fc2"]))[0] == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [*found] == two
    assert found[two[1]]["settings"]["n_latents"] == 4 * 40


@pytest.mark.filterwarnings("always:--site")
def test_a_block_as_site_is_warned_of_once_and_as_an_option(start: list[object], command: Run) -> None:
    status, _, err = command(*with_site(start, ["--site", "model.layers.1"]), "--n-latents", 8)
    assert status == 0
    warned = [line for line in err.splitlines() if "warning" in line]
    assert warned == [
        "sparsedict: warning: --site 'model.layers.1' (LlamaDecoderLayer) contains more than an MLP. An MLP in it is "
        "'model.layers.1.mlp'."
    ]


def test_ids_beyond_the_vocabulary(start: list[object], command: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "beyond.npy", np.arange(200))
    status, _, err = command(*start, "--data", tmp_path / "beyond.npy")
    assert status == 2
    assert "--data must be ids from 0 to 63, the vocabulary of the model, got ids from 0 to 1" in err
    assert "the first other id is 64 in row " in err


def test_a_mistyped_folder_names_its_neighbours_and_asks_no_hub(
    start: list[object], command: Run, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model_folder, tmp_path / "stories260K")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **__: pytest.fail("asked the hub"))
    for name in ("stories260k", "./stories260", "stories260Kk/model", str(tmp_path / "storis260K")):
        start[1] = name
        status, _, err = command(*start)
        assert status == 2
        assert "stories260K" in err.replace(name, "")


@pytest.mark.parametrize("option", ["--wandb", "--tensorboard"])
def test_a_tracker_that_is_not_installed(
    option: str, start: list[object], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, option[2:], None)
    status, _, err = command(*start, option)
    assert status == 2
    assert f"{option} needs the package {option[2:]}: pip install {option[2:]}" in err


def test_weights_and_biases_gets_one_run_for_all_its_parts(
    start: list[object], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []
    logged: list[int] = []
    run = SimpleNamespace(step=0, log=lambda values, step: logged.append(step))

    def init(**settings: Any) -> Any:
        begun.append(settings)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None, init=init))
    with stopping(4, signal.SIGINT, monkeypatch):
        assert command(*start, "--wandb", "mine")[0] == 130
    assert command(*start, "--wandb", "mine", "--resume")[0] == 0
    assert begun[0]["project"] == "mine"
    assert begun[0]["config"]["--n-tokens"] == 600
    assert begun[0]["id"] == begun[1]["id"]
    assert sorted(set(logged)) == list(range(1, 11))
    assert len(logged) == 20


def test_tensorboard_gets_its_files(start: list[object], command: Run, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("tensorboard")
        assert command(*start, "--tensorboard")[0] == 0
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


@contextmanager
def stopping(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sends a signal when a step is done."""
    inner = Loop._step

    def then_stop(self: Loop, *args: Any) -> None:
        inner(self, *args)
        if self.n_steps == step:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", then_stop)
        yield


def test_sigterm_outside_of_training_is_reported_as_well(
    start: list[object], command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("sparsedict.studies._decompose.evaluate", measure)
        status, _, err = command(*start)
    assert status == 143
    assert "stopped by SIGTERM; run the same command with --resume to resume the run." in err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert command(*start, "--resume")[0] == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 20


def test_sigterm_after_the_results_says_where_they_are(
    start: list[object], command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(*_: object) -> str:
        signal.raise_signal(signal.SIGTERM)
        return ""

    with monkeypatch.context() as patch:
        patch.setattr("sparsedict.cli._run.listed", listed)
        status, _, err = command(*start)
    assert status == 143
    assert f"the results of a finished run are in {tmp_path / 'run'}." in err
    assert command(*start, "--resume")[0] == 0


def test_a_full_disk_at_the_end_loses_no_training(
    start: list[object], command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sparsedict.studies._sites_report.write_report", full)
        status, _, err = command(*start)
    assert status == 2
    assert "The results could not be written" in err
    assert "add --resume" in err
    assert command(*start, "--resume")[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--site", "model.layers.1.mpl"], "--site must name a module"),
        (["--l1", "3"], "--l1 requires --activation relu, got batchtopk"),
        (["--activation", "relu"], "--k requires --activation topk or batchtopk or jumprelu, got relu"),
        (["--activation", "jumprelu", "--l0", "1"], "--k and --l0 can't be used together"),
        (["--activation", "jumprelu", "--k", "49"], "--k must be at most the number of"),
        (["--skip", "--kind", "autoencoder"], "--skip requires a distiller"),
        (["--skip", "--kind", "crosscoder"], "--skip requires a distiller, got --kind crosscoder"),
        (["--kind", "cross-layer"], "--kind cross-layer requires several sites, got --site model.layers.1.mlp"),
        (["--site", "model.layers.0.mlp", "--k", "49", "--kind", "crosscoder"], "--k must be at most the number of"),
        (["--device", "abacus"], "--device"),
        (["--context", "64"], "--context must be at most the model's 32 positions, got 64"),
        (["--held-out", "2"], "--held-out must be a share between 0 and 1"),
        (["--held-out", "./gone.npy"], "--held-out"),
        (["--data", "./gone.txt"], "no file or folder './gone.txt'"),
        (["--vocabulary", "gone.json"], "gone.json"),
        (["--lr", "0"], "--lr must lie in (0.0, inf), got 0.0"),
        (["--activation", "relu", "--k", "3"], "--k requires"),
        (["--dtype", "bfloat16", "--held-out", "1.5"], "--held-out must be a share"),
    ],
    ids=lambda value: "-".join(value).strip("-") if isinstance(value, list) else "",
)
def test_errors_state_the_remedy(options: list[str], message: str, start: list[object], command: Run) -> None:
    status, out, err = command(*start, *options)
    assert (status, out) == (2, "")
    line = err.strip().splitlines()[-1]
    assert len(err.strip().splitlines()) <= 2
    assert line.startswith("sparsedict: error: ")
    assert message in line


def test_a_model_that_is_not_there(command: Run, start: list[object], tmp_path: Path) -> None:
    start[1] = "./gone"
    assert "there is no folder './gone'" in command(*start)[2]
    start[1] = tmp_path
    assert "must be a folder with a causal language model" in command(*start)[2]


def test_other_things_in_the_folder_are_noticed_before_any_work(
    command: Run, start: list[object], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.md").write_text("mine")
    start[1] = "./gone"
    status, _, err = command(*start)
    assert status == 2
    assert "contains other files (notes.md)" in err


def test_a_broken_link_as_the_folder_is_named(command: Run, start: list[object], tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("gone")
    status, _, err = command(*start)
    assert status == 2
    assert "run' is a link to 'gone', which doesn't exist." in err


@pytest.mark.parametrize(
    ("options", "activation", "parts"),
    [
        ([], sd.BatchTopK(32), [sd.AuxK, sd.Resample, sd.AnnealK]),
        (["--k", "5", "--activation", "topk"], sd.TopK(5), [sd.AuxK, sd.Resample, sd.AnnealK]),
        (["--activation", "relu", "--l1", "0.3"], sd.ReLU(), [sd.Relative]),
        (["--activation", "jumprelu", "--l0", "0.1"], sd.JumpReLU(), [sd.L0]),
        (["--activation", "jumprelu"], sd.JumpReLU(), [sd.TargetL0]),
    ],
)
def test_recipes(options: list[str], activation: sd.Activation, parts: list[type]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    recipe = recipes_of(parser.parse_args(["m", "--site", "s", "--data", "d", "--out", "o", *options]))
    for found in recipe.values():
        assert found.make.keywords["activation"] == activation  # pyright: ignore[reportFunctionMemberAccess]
        own = (*found.options.get("penalties", ()), *found.options["step_hooks"])
        assert [type(part) for part in own] == parts


@pytest.mark.parametrize(("kind", "target"), [("distiller", 6), ("cross-layer", 18), ("crosscoder", 6)])
def test_active_latents_of_cross_layer_dictionaries_are_those_of_each_site(kind: str, target: int) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = ["--activation", "jumprelu", "--k", "6", "--kind", kind]
    args = parser.parse_args(["m", "--site", "s", "--data", "d", "--out", "o", *options])
    (recipe,) = recipes_of(args, n_sites=3).values()
    assert list(recipe.options["penalties"]) == [sd.TargetL0(target)]


def test_an_interrupted_run_is_resumed(
    start: list[object], command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    assert command(*start)[0] == 0
    whole = sd.load(out / "distiller")
    shutil.rmtree(out)
    with stopping(4, signal.SIGINT, monkeypatch):
        status, _, err = command(*start)
    assert status == 130
    assert "run the same command with --resume to resume the run." in err
    status, _, err = command(*start)
    assert status == 2
    assert "Add --resume to resume it, or --force to start a new run" in err
    status, _, err = command(*start, "--resume", "--lr", "0.5")
    assert status == 2
    assert "--lr was not given and is 0.5" in err
    assert command(*start, "--resume")[0] == 0
    assert torch.equal(sd.load(out / "distiller").encoder, whole.encoder)
    assert not (out / "checkpoints").exists()
    # Where nothing was stopped, it begins.
    shutil.rmtree(out)
    assert command(*start, "--resume")[0] == 0
    assert torch.equal(sd.load(out / "distiller").encoder, whole.encoder)


def test_a_run_that_was_stopped_may_be_begun_anew(start: list[object], command: Run, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / "step-000000003").mkdir(parents=True)
    assert command(*start)[0] == 2
    assert command(*start, "--force")[0] == 0


def test_latent_ranks_must_divide_the_processes_of_torchrun() -> None:
    with pytest.raises(ValueError, match=r"--latent-ranks must divide .* 1, got 2.*torchrun --nproc-per-node 2"):
        parallel_of_environment(2)
