"""Loading some of a dictionary's latents."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

import cases
import sparsedict as sd
from sparsedict.storage import StorageError

PER_LATENT = ("encoder", "encoder_bias", "decoder")
CHOOSES_AMONG_ALL = {name for name, case in cases.ACTIVATIONS.items() if not case.activation.elementwise} - {
    "top_1",
    "top_k",
    "top_all",
    "batch_top_k",
    "abs_top_k",
}


# Rows of weights depend on the kind alone, and those of the state on the activation.
@pytest.mark.parametrize(
    ("kind", "activation"),
    [
        *((kind, "relu") for kind in cases.KINDS),
        *(pair for pair in cases.PAIRS if pair[1] not in {"relu", *CHOOSES_AMONG_ALL}),
    ],
)
def test_some_latents_are_those_of_the_whole_dictionary(kind: str, activation: str, tmp_path: Path) -> None:
    whole = cases.make(kind, activation)
    whole.save(tmp_path)
    rows = [3, 2, 7, 11]  # those of a layer must lie together
    some = sd.load(tmp_path, latents=rows)
    assert type(some) is type(whole)
    assert (some.n_latents, some.d_in, some.d_out) == (4, whole.d_in, whole.d_out)
    blocks = {name: index for index, names in enumerate(whole.per_block) for name in names}
    for name, weight in whole.state_dict().items():
        wanted = weight[rows] if weight.shape[:1] == (whole.n_latents,) else weight
        if name in blocks:
            wanted = weight[[3, 2] if blocks[name] == 0 else [0, 4]]
        assert torch.equal(some.state_dict()[name], wanted), name
    assert some.trained_on["latents"] == rows
    x = cases.tokens(30)
    ours, theirs = some.encode(x), whole.encode(x)[:, rows]
    if activation.startswith("top"):
        torch.testing.assert_close(ours[theirs > 0], theirs[theirs > 0])
        assert int((ours > 0).sum(-1).max()) <= whole.activation.k  # type: ignore[attr-defined]
    elif "top" not in activation:
        torch.testing.assert_close(ours, theirs)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(cases.N_LATENTS)), st.integers(1, cases.N_LATENTS))
def test_any_latents_in_any_order(tmp_path: Path, order: list[int], n: int) -> None:
    whole = cases.make("distiller_bias_skip", "jump_relu")
    whole.save(tmp_path / "whole")
    some = sd.load(tmp_path / "whole", latents=order[:n])
    for name in PER_LATENT:
        assert torch.equal(some.state_dict()[name], whole.state_dict()[name][order[:n]])


def test_a_width_that_equals_the_number_of_latents_is_not_taken_for_it(tmp_path: Path) -> None:
    whole = sd.SparseDistiller(8, 8, 8, activation=sd.ReLU(), decoder_norm=sd.Free(), skip=True, input_bias=True)
    whole.save(tmp_path)
    for rows in ([3, 1], list(range(7, -1, -1))):
        some = sd.load(tmp_path, latents=torch.tensor(rows))
        assert torch.equal(some.encoder, whole.encoder[rows])
        assert torch.equal(some.skip, whole.skip)  # type: ignore[arg-type]
        assert some.decoder_bias.shape == some.input_bias.shape == (8,)  # type: ignore[union-attr]


def test_latents_of_latents_are_named_by_the_first_dictionary(tmp_path: Path) -> None:
    cases.make().save(tmp_path / "whole")
    some = sd.load(tmp_path / "whole", latents=[9, 4, 6])
    some.save(tmp_path / "some")
    assert sd.load(tmp_path / "some", latents=[2, 0]).trained_on["latents"] == [6, 9]


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("latents", "error", "message"),
    [
        ([], ValueError, "must name at least one latent"),
        ([12], ValueError, "must lie from 0 to 11, got 12"),
        ([-1], ValueError, "must lie from 0 to 11, got -1"),
        ([3, 3], ValueError, "each latent once"),
        ([1.0], TypeError, "must be indices of latents, got 1.0 of type float"),
        (torch.ones(12, dtype=torch.bool), TypeError, "convert a mask"),
    ],
)
def test_invalid_latents_raise(tmp_path: Path, latents: object, error: type, message: str) -> None:
    cases.make().save(tmp_path)
    with pytest.raises(error, match=f"`latents`.*{message}"):
        sd.load(tmp_path, latents=latents)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", sorted(CHOOSES_AMONG_ALL))
def test_selection_among_all_latents_rejects_a_subset(activation: str, tmp_path: Path) -> None:
    cases.make("distiller", activation).save(tmp_path)
    with pytest.raises(StorageError, match=r"depends on (all|the) latents"):
        sd.load(tmp_path, latents=[1, 2])


class Gating(sd.Dictionary):
    """Multiplies pre-activations by a gate of one row for each latent, without naming it."""

    reads = writes = "outputs"

    def __init__(self, d_in: int, d_out: int, n_latents: int, **parts: Any) -> None:
        super().__init__(d_in, d_out, n_latents, **parts)
        self.gate = nn.Parameter(torch.randn(n_latents, d_in))
        self.rotation = nn.Parameter(torch.randn(d_in, d_in))

    def pre_activations(self, x: Tensor) -> Tensor:
        return super().pre_activations(x @ self.rotation) * (x @ self.gate.T)


class NamedGating(Gating):
    @property
    def per_latent(self) -> frozenset[str]:
        return super().per_latent | {"gate"}


@pytest.mark.parametrize("kind", [Gating, NamedGating])
@pytest.mark.parametrize("d", [6, 12])
@pytest.mark.parametrize("rows", [[7, 2, 11], list(range(12)), list(range(11, -1, -1))], ids=["some", "all", "turned"])
def test_weights_of_a_kind_outside_the_library(kind: type[Gating], d: int, rows: list[int], tmp_path: Path) -> None:
    whole = kind(d, 5, 12, activation=sd.ReLU(), decoder_norm=sd.Free())
    whole.save(tmp_path)
    if kind is Gating and rows[0] == 11:
        with pytest.raises(
            StorageError, match=r"Gating doesn't state whether .* `return super\(\).per_latent \| {'gate'}`"
        ):
            sd.load(tmp_path, latents=rows, parts=[kind])
        return
    some = sd.load(tmp_path, latents=rows, parts=[kind])
    x = torch.randn(9, d)
    torch.testing.assert_close(some.encode(x), whole.encode(x)[:, rows])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
def test_only_the_requested_rows_are_read(tmp_path: Path) -> None:
    """The file is a hole of 16 GiB: a page that is read becomes the process's own, and they are counted."""
    n_latents, width = 2**20, 2**11
    small = sd.SparseAutoencoder(width, 8, activation=sd.ReLU(), decoder_norm=sd.Free())
    small.save(tmp_path)
    document = json.loads((tmp_path / "dictionary.json").read_text())
    document["kind"]["arguments"]["n_latents"] = document["widths"]["n_latents"] = n_latents
    (tmp_path / "dictionary.json").write_text(json.dumps(document))
    header, offset = {"__metadata__": {"digest": document["weights"]}}, 0
    for name, weight in small.state_dict().items():
        shape = [n_latents if n == 8 and i == 0 else n for i, n in enumerate(weight.shape)]
        size = 4 * int(torch.tensor(shape).prod())
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}  # type: ignore[assignment]
        offset += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with (tmp_path / "dictionary.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        start = stream.tell()
        begin = header["encoder"]["data_offsets"][0]  # type: ignore[index]
        stream.seek(start + begin + 4 * width * 123_456)
        stream.write(torch.arange(width, dtype=torch.float32).numpy().tobytes())
        stream.truncate(start + offset)
    assert (tmp_path / "dictionary.safetensors").stat().st_size > 16 * 2**30
    before = _read_pages()
    some = sd.load(tmp_path, latents=[5, 123_456, n_latents - 1])
    n_bytes = 4096 * (_read_pages() - before)
    assert torch.equal(some.encoder[1], torch.arange(width, dtype=torch.float32))
    assert n_bytes < 4 * 2**20, n_bytes


def _read_pages() -> int:
    """Returns the process's page faults: each is a page that it touched for the first time."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_minflt + used.ru_majflt


def test_invalid_rows_beside_the_requested_ones_are_not_read(tmp_path: Path) -> None:
    whole = cases.make("autoencoder", "relu")
    whole.save(tmp_path)
    digest = json.loads((tmp_path / "dictionary.json").read_text())["weights"]
    weights = {name: weight.clone() for name, weight in whole.state_dict().items()}
    for name in PER_LATENT:
        weights[name][[0, 1, 4, 5, 11]] = torch.nan
    save_file(weights, tmp_path / "dictionary.safetensors", metadata={"digest": digest})
    assert torch.equal(sd.load(tmp_path, latents=[2, 3, 6, 10]).decoder, whole.decoder[[2, 3, 6, 10]])
    with pytest.raises(StorageError, match="finite weights"):
        sd.load(tmp_path, latents=[2, 3, 4])
