"""Checkpoint folders: paths, the choice of the checkpoint, and rejected folders and settings."""

from __future__ import annotations

import errno
import functools
import json
import os
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import sparsedict as sd
from sparsedict.storage import StorageError, _checkpoint, read_checkpoint, write_checkpoint
from sparsedict.training._settings import differences, renamed_paths, renamed_settings

from ._runs import BATCH, CASES, N_STEPS, D, coder, rows, same_results

ADAM = CASES["a tensor, AuxK, Adam"]


def steps(folder: Path) -> list[int]:
    return sorted(int(item.name.removeprefix("step-")) for item in folder.iterdir() if item.name.startswith("step-"))


def quick(folder: Path | None, dictionary: sd.Dictionary | None = None, data: Any = None, **kwargs: Any) -> sd.History:
    dictionary = coder(sd.TopK(3)) if dictionary is None else dictionary
    size = {"batch_size": BATCH} if data is None else {}
    kwargs = {"n_tokens": 256, "progress": False} | size | kwargs
    return sd.fit(dictionary, rows() if data is None else data, checkpoint=folder, **kwargs)


def test_the_newest_few_are_kept_and_one_lies_at_the_end(tmp_path):
    ADAM.run(tmp_path / "two", checkpoint_every=5)
    assert steps(tmp_path / "two") == [10, N_STEPS]
    ADAM.run(tmp_path / "all", checkpoint_every=5, checkpoint_keep=10)
    assert steps(tmp_path / "all") == [0, 5, 10, N_STEPS]
    ADAM.run(tmp_path / "timed", checkpoint_every=timedelta(hours=1), checkpoint_keep=10)
    assert steps(tmp_path / "timed") == [0, N_STEPS]
    ADAM.run(tmp_path / "often", checkpoint_every=timedelta(microseconds=1), checkpoint_keep=100)
    assert steps(tmp_path / "often") == list(range(N_STEPS + 1))


def test_resuming_where_there_is_no_checkpoint_begins(tmp_path):
    same_results(ADAM.run(), ADAM.run(tmp_path / "new", resume=True))


def test_nothing_is_pickled_and_the_json_is_plain(tmp_path):
    ADAM.run(tmp_path, checkpoint_every=5)
    newest = tmp_path / f"step-{N_STEPS:09d}"
    assert {item.name for item in newest.iterdir()} == {"checkpoint.json", "state.safetensors"}
    document = json.loads((newest / "checkpoint.json").read_text())
    assert document["format"] == "sparsedict checkpoint"
    assert document["settings"]["run"]["lr"] == 0.01
    assert document["state"]["n_steps"] == N_STEPS


def another_penalty(**kwargs: Any) -> dict[str, Any]:
    return {"penalties": [sd.L1(**kwargs)]}


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"lr": 1e-3}, {"lr": 2e-3}, r"`lr` was 0.001 and is 0.002"),
        ({}, {"n_tokens": 512}, "`n_tokens` was 256 and is 512"),
        ({"batch_size": 64}, {"batch_size": 32}, "`data` was .*batches of 64.* and is .*batches of 32"),
        ({"seed": 1}, {"seed": 2}, "`data` was .*seed 1.* and is .*seed 2"),
        ({"log_every": 1}, {"log_every": 2}, "`log_every` was 1 and is 2"),
        ({}, {"autocast": torch.bfloat16}, "`autocast` was None and is 'torch.bfloat16'"),
        (
            {"schedule": sd.training.Constant()},
            {"schedule": sd.Linear()},
            r"`schedule` was Constant.* and is Linear",
        ),
        (
            {"schedule": sd.Cosine(warm_up=0.1)},
            {"schedule": sd.Cosine(warm_up=0.2)},
            "`schedule.warm_up` was 0.1 and is 0.2",
        ),
        (
            another_penalty(coefficient=0.1),
            another_penalty(coefficient=0.2),
            r"`penalties\[0\].coefficient` was 0.1 and is 0.2",
        ),
        (another_penalty(coefficient=0.1), {}, r"`penalties` was \[L1\(coefficient=0.1\)\] and is \[\]"),
        (
            another_penalty(coefficient=torch.ones(20)),
            another_penalty(coefficient=torch.arange(20.0)),
            r"`penalties\[0\].coefficient` was .*SHA-256",
        ),
        ({}, {"optimizer": torch.optim.SGD}, r"`optimizer` was Adam\(.* and is SGD\("),
        (
            {},
            {"optimizer": functools.partial(torch.optim.Adam, betas=(0.5, 0.999), fused=True)},
            r"`optimizer.groups\[0\].betas\[0\]` was 0.9 and is 0.5",
        ),
        ({}, {"clip_norm": 1.0}, "`clip_norm` was None and is 1.0"),
        ({}, {"step_hooks": [sd.Resample(every=5)]}, r"`step_hooks` was \[\] and is \[Resample\("),
        ({}, {"dictionary": coder(sd.TopK(4))}, "`dictionary.activation.k` was 3 and is 4"),
        ({}, {"dictionary": coder(sd.ReLU())}, r"`dictionary.activation` was TopK\(k=3\) and is ReLU\(\)"),
        ({}, {"dictionary": coder(sd.TopK(3)).double()}, "`dictionary.weights.encoder` was 'torch.float32"),
        ({}, {"dictionary": coder(sd.TopK(3), decoder_norm=sd.Free())}, "`dictionary.decoder_norm` was UnitNorm"),
        ({}, {"deterministic": True}, "`deterministic` was False and is True"),
    ],
)
def test_other_settings_raise_an_error_that_lists_the_differences(before, now, message, tmp_path):
    quick(tmp_path, **before)
    with pytest.raises(ValueError, match=rf"the run in .* has other settings: .*{message}"):
        quick(tmp_path, **({**before, **now} if now else {}), resume=True)


def test_frozen_weights_are_a_difference(tmp_path):
    quick(tmp_path)
    frozen = coder(sd.TopK(3))
    frozen.decoder.requires_grad_(False)
    with pytest.raises(ValueError, match=r"`dictionary.weights.decoder` was .* and is '.*, frozen'"):
        quick(tmp_path, frozen, resume=True)


def test_the_difference_of_one_of_many_is_named(tmp_path):
    def trainees(k: int) -> dict[str, sd.Trainee]:
        return {"a": sd.Trainee(coder(sd.TopK(3))), "b": sd.Trainee(coder(sd.TopK(k)))}

    sd.fit_many(trainees(3), rows(), n_tokens=256, progress=False, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"`trainees.b.dictionary.activation.k` was 3 and is 4"):
        sd.fit_many(trainees(4), rows(), n_tokens=256, progress=False, checkpoint=tmp_path, resume=True)


class Shrunk(sd.Penalty):
    """A part that isn't a dataclass."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        return out.values.abs().sum() * self.by / out.n_tokens


def test_a_part_that_is_no_dataclass_is_compared_too(tmp_path):
    quick(tmp_path, penalties=[Shrunk(0.1)])
    quick(tmp_path, penalties=[Shrunk(0.1)], resume=True)
    with pytest.raises(ValueError, match=r"`penalties\[0\].by` was 0.1 and is 0.2"):
        quick(tmp_path, penalties=[Shrunk(0.2)], resume=True)


def stopped(folder: Path, data: Any, **kwargs: Any) -> None:
    """Trains to a step in the middle."""

    def stop(*_: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        quick(folder, data=data, callbacks=[stop], log_every=3, checkpoint_every=1, **kwargs)
    assert steps(folder) == [1, 2]


@pytest.mark.parametrize(
    "other",
    [
        lambda: [rows(BATCH, seed=i) for i in (0, 9, 9, 9)],
        lambda: [rows(BATCH, seed=i)[:-1] for i in range(4)],
        lambda: [(rows(BATCH, seed=i), rows(BATCH, seed=i) + 1) for i in range(4)],
        lambda: [rows(BATCH, seed=i)[:, : D - 1] for i in range(4)],
    ],
    ids=["content", "sizes", "pairs", "width"],
)
def test_other_data_raises(other, tmp_path):
    stopped(tmp_path, [rows(BATCH, seed=i) for i in range(4)])
    with pytest.raises(ValueError, match="`data` must be the data of the interrupted run"):
        quick(tmp_path, data=other(), log_every=3, resume=True)
    quick(tmp_path, data=[rows(BATCH, seed=i) for i in range(4)], log_every=3, resume=True)


def test_data_that_differs_in_rounding_resumes_with_a_warning(tmp_path):
    data = [rows(BATCH, seed=i) for i in range(4)]
    stopped(tmp_path, data)
    with pytest.warns(UserWarning, match="differ in rounding"):
        quick(tmp_path, data=[part * (1 + 1e-6) for part in data], log_every=3, resume=True)


def test_another_number_of_threads_resumes_with_a_warning(tmp_path):
    quick(tmp_path)
    n = torch.get_num_threads()
    try:
        torch.set_num_threads(n + 1)
        with pytest.warns(UserWarning, match=f"`threads` was {n} and is {n + 1}"):
            quick(tmp_path, resume=True)
    finally:
        torch.set_num_threads(n)


@pytest.mark.as_installed
def test_invalid_folders_raise_errors_before_training(tmp_path):
    class Untouchable:
        def __iter__(self):
            raise AssertionError("the data was read")

    refused = functools.partial(quick, data=Untouchable())
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NotADirectoryError, match=r"`checkpoint` must be a folder, but .*file is a file"):
        refused(file)
    with pytest.raises(OSError, match="`checkpoint` must be a writable folder"):
        refused(file / "inside")
    with pytest.raises(ValueError, match=r"`checkpoint` must be the folder of the run to resume .* got None"):
        refused(None, resume=True)
    quick(tmp_path / "run")
    before = {item.name for item in (tmp_path / "run").iterdir()}
    with pytest.raises(FileExistsError, match=r"contains one of step 4\. Pass resume=True .*or choose another folder"):
        refused(tmp_path / "run")
    assert {item.name for item in (tmp_path / "run").iterdir()} == before
    with pytest.raises(ValueError, match=r"is a single checkpoint: pass .*run\."):
        refused(tmp_path / "run" / "step-000000004", resume=True)
    for every in (0, timedelta(0)):
        with pytest.raises(ValueError, match="`checkpoint_every` must be"):
            refused(tmp_path / "other", checkpoint_every=every)
    with pytest.raises(ValueError, match="`checkpoint_keep` must be at least 1"):
        refused(tmp_path / "other", checkpoint_keep=0)


def test_a_folder_that_cannot_be_written_to_raises(tmp_path, monkeypatch):
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match="`checkpoint` must be a writable folder"):
        quick(tmp_path)


def test_another_process_in_the_same_folder_raises(tmp_path):
    code = (
        "import sys, pathlib\nfrom sparsedict.training._checkpoints import Checkpoints\n"
        f"held = Checkpoints({str(tmp_path)!r}, every=1, keep=1, resume=True)\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError, match="another process trains in"):
            quick(tmp_path, resume=True)
        other.kill()
        other.wait()
    quick(tmp_path, resume=True)


def test_a_broken_checkpoint_is_skipped(tmp_path):
    whole = ADAM.run()
    for damage in (truncate, garble, lose, garble_json):
        folder = tmp_path / damage.__name__
        ADAM.run(folder, checkpoint_every=5)
        damage(folder / f"step-{N_STEPS:09d}")
        with pytest.warns(UserWarning, match="Skipped a broken checkpoint"):
            resumed = ADAM.run(folder, checkpoint_every=5, resume=True)
        same_results(whole, resumed)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            same_results(whole, ADAM.run(folder, checkpoint_every=5, resume=True))


def test_no_new_run_starts_if_all_checkpoints_are_broken(tmp_path):
    quick(tmp_path, checkpoint_keep=1)
    truncate(tmp_path / "step-000000004")
    with pytest.warns(UserWarning, match="broken"), pytest.raises(StorageError, match="None of the checkpoints"):
        quick(tmp_path, resume=True)


def test_a_checkpoint_of_a_newer_version_is_not_passed_over(tmp_path, monkeypatch):
    quick(tmp_path)
    monkeypatch.setattr(_checkpoint, "CHECKPOINT_VERSION", 0)
    with pytest.raises(StorageError, match=r"format version 1, written by sparsedict .* Upgrade"):
        quick(tmp_path, resume=True)


def truncate(folder: Path) -> None:
    file = folder / "state.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def garble(folder: Path) -> None:
    file = folder / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def lose(folder: Path) -> None:
    (folder / "state.safetensors").unlink()


def garble_json(folder: Path) -> None:
    file = folder / "checkpoint.json"
    file.write_text(file.read_text()[:100])


def test_states_come_back_as_they_were(tmp_path):
    state = {
        "tensors": [torch.zeros(0, 3), torch.tensor(1, dtype=torch.uint8), torch.randn(2).bfloat16()],
        "plain": (None, True, 7, -0.0, 1e300, "text", b"\x00bytes", float("nan"), float("-inf")),
        "keys": {1: "one", (2, "b"): 2, "$tensor": "not one"},
        "$tensor": {"nested": [[], {}, ()]},
    }
    write_checkpoint(tmp_path / "x", {"a": 1}, state)
    settings, again = read_checkpoint(tmp_path / "x")
    assert settings == {"a": 1}
    assert repr(again["plain"]) == repr(state["plain"])
    assert again["keys"] == state["keys"]
    assert again["$tensor"] == state["$tensor"]
    for before, after in zip(state["tensors"], again["tensors"], strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)


def test_safetensors_reads_the_written_weights(tmp_path):
    dtypes = (torch.bool, torch.uint8, torch.bfloat16, torch.float32, torch.complex64, torch.int64, torch.float64)
    state = {str(dtype): torch.arange(3).to(dtype) for dtype in dtypes}
    write_checkpoint(tmp_path / "x", {}, state | {"turned": torch.randn(4, 3).T, "none": torch.zeros(0)})
    stored = load_file(tmp_path / "x" / "state.safetensors")
    assert len(stored) == len(dtypes) + 2
    for name, tensor in state.items():
        assert torch.equal(stored[f"state/{name}"], tensor)


def test_objects_that_cannot_be_saved_are_named(tmp_path):
    with pytest.raises(
        TypeError, match=r"`state/parts/thing\[?/?0?\]?.*` must be a tensor, None, .* to be saved, got a set"
    ):
        write_checkpoint(tmp_path / "x", {}, {"parts": {"thing": [{1, 2}]}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [{"$tensor": "nothing"}, {"$float": "7"}, {"$items": [1]}, {"$other": 1}])
def test_json_that_names_nothing_is_an_error(content, tmp_path):
    write_checkpoint(tmp_path / "x", {}, {"a": 1})
    file = tmp_path / "x" / "checkpoint.json"
    document = json.loads(file.read_text())
    document["state"] = {"a": content}
    file.write_text(json.dumps(document))
    with pytest.raises(StorageError, match="doesn't refer to a value"):
        read_checkpoint(tmp_path / "x")


@pytest.mark.parametrize("name", ["checkpoint.json", "state.safetensors"])
@pytest.mark.parametrize("target", ["/dev/zero", "..", "itself"])
def test_a_file_that_is_a_link_out_of_its_checkpoint_raises(name, target, tmp_path):
    write_checkpoint(tmp_path / "x", {}, {"a": torch.ones(2)})
    file = tmp_path / "x" / name
    file.unlink()
    file.symlink_to(name if target == "itself" else target)
    with pytest.raises(StorageError, match=f"{name} (must not link out|can't be resolved)"):
        read_checkpoint(tmp_path / "x")


@pytest.mark.as_installed
@pytest.mark.parametrize(("name", "value"), [("checkpoint_every", 5), ("checkpoint_keep", 3)])
def test_checkpoint_options_need_a_folder(name, value):
    with pytest.raises(ValueError, match=f"`checkpoint` must be a folder if `{name}` is given, got None"):
        quick(None, **{name: value})


@pytest.mark.as_installed
def test_a_checkpoint_that_is_no_path_is_named():
    with pytest.raises(TypeError, match=r"`checkpoint` must be the path of a folder, as text or a pathlib"):
        quick(3)  # type: ignore[arg-type]


def test_options_that_another_release_of_pytorch_adds_to_an_optimizer_are_no_difference():
    before = {"optimizer": {"class": "Adam", "groups": [{"lr": 0.1, "betas": [0.9, 0.99]}]}}
    now = {"optimizer": {"class": "Adam", "groups": [{"lr": 0.1, "betas": [0.9, 0.99], "decoupled": False}]}}
    assert not list(differences(before, now)) + list(differences(now, before))
    now["optimizer"]["groups"][0]["lr"] = 0.2
    assert list(differences(before, now)) == ["`optimizer.groups[0].lr` was 0.1 and is 0.2"]
    assert list(differences({"optimizer": {"class": "Adam", "groups": []}}, before))


def test_settings_and_states_of_version_0_1_get_the_present_names() -> None:
    alone = {"n_tokens": 5, "upkeep": [1]}
    assert renamed_settings(alone) == {"n_tokens": 5, "step_hooks": [1]}
    several = {"n_tokens": 5, "trainees": {"upkeep": {"upkeep": [1], "lr": 0.1}}}
    assert renamed_settings(several) == {"n_tokens": 5, "trainees": {"upkeep": {"step_hooks": [1], "lr": 0.1}}}
    states = {".upkeep[0].part": 1, ".penalties[0]": 2, "a.upkeep[1]": 3, "callbacks[0].upkeep[0]": 4}
    assert renamed_paths(states, ["", "a"]) == {
        ".step_hooks[0].part": 1,
        ".penalties[0]": 2,
        "a.step_hooks[1]": 3,
        "callbacks[0].upkeep[0]": 4,
    }
    assert renamed_paths(states, []) == states
