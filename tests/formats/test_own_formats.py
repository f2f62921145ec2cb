"""User-defined formats and kinds, which `sd.load` reads and which other formats write."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsedict as sd

PARTS: dict[str, Any] = {"activation": sd.ReLU(), "decoder_norm": sd.Free()}


@dataclass(frozen=True)
class Lists:
    """Weights as lists of numbers in a JSON file."""

    name: str = "weights.lists"

    def recognises(self, location: sd.formats.Location) -> bool:
        return location.file_name == self.name if location.file_name is not None else location.holds(self.name)

    def read(
        self,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> sd.Dictionary:
        found = Path(path)
        numbers = json.loads((found / self.name if found.is_dir() else found).read_text())
        weights = {name: torch.tensor(value, device=device, dtype=dtype) for name, value in numbers.items()}
        return sd.SparseDistiller.from_weights(weights["encoder"], weights["decoder"], activation=sd.ReLU()).train()


class Wrong(Lists):
    def read(self, path: Any, **options: Any) -> Any:
        return {"encoder": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    numbers = {"encoder": [[1.0, 2.0], [0.0, 1.0], [-1.0, 0.5]], "decoder": [[1.0], [2.0], [3.0]]}
    (tmp_path / "weights.lists").write_text(json.dumps(numbers))
    return tmp_path


@pytest.mark.parametrize("file", [None, "weights.lists"])
def test_a_format_from_outside_is_read(folder: Path, file: str | None) -> None:
    assert isinstance(Lists(), sd.formats.Format)
    found = sd.load(folder if file is None else folder / file, formats=[Lists()], dtype=torch.float64)
    assert isinstance(found, sd.SparseDistiller)
    assert found.encoder.dtype == torch.float64
    assert not found.training
    assert found.decoder.tolist() == [[1.0], [2.0], [3.0]]


def test_the_first_format_that_recognises_files_reads_them(folder: Path) -> None:
    other = sd.SparseDistiller(2, 1, 3, **PARTS)
    other.save(folder)
    assert torch.equal(sd.load(folder, formats=[Lists("missing")]).encoder, other.encoder)
    assert sd.load(folder, formats=[Lists("missing"), Lists(), Wrong()]).encoder.tolist()[0] == [1.0, 2.0]


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ("sae_lens", r"must be a list of formats, such as `formats=\[MyFormat\(\)\]`, got 'sae_lens'"),
        (Lists(), "must be a list of formats"),
        ([Lists], r"must contain objects .*got <class .*pass an instance, not the class"),
        ([object()], "must contain objects with methods `recognises` and `read`"),
        ([Wrong()], "`read` returns a Dictionary, but Wrong returned dict"),
    ],
)
def test_other_objects_raise(folder: Path, formats: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"`formats` .*{message}"):
        sd.load(folder, formats=formats)


def test_a_path_that_no_format_recognises_gives_the_usual_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"contains no saved dictionary: dictionary\.json is missing"):
        sd.load(folder, formats=[Lists("other")])


class Plain(sd.Dictionary):
    reads = writes = "outputs"


class Halving(sd.Dictionary):
    """Encodes half of its input: the weights of the form are not those of the dictionary."""

    reads, writes = "inputs", "outputs"

    def encoder_inputs(self, x: Tensor) -> Tensor:
        return x / 2

    def exported(self) -> sd.dictionaries.Exported:
        return sd.dictionaries.Exported(
            encoder=self.encoder / 2,
            encoder_bias=self.encoder_bias,
            decoder=self.decoder,
            decoder_bias=self.decoder_bias,
            activation=self.activation,
            activation_state={},
            is_distiller=True,
        )


class Shifted(sd.SparseDistiller):
    """Adds to the distiller's output, which the inherited form doesn't say."""

    def reconstruct(self, latents: Any, inputs: Tensor) -> Tensor:
        return super().reconstruct(latents, inputs) + 1


WRITERS = [sd.formats.sae_lens, sd.formats.circuit_tracer]


@pytest.mark.filterwarnings("ignore:The dictionary has no")
@pytest.mark.parametrize("kind", [Plain, Halving])
@pytest.mark.parametrize("library", WRITERS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_kind_that_states_its_form_is_written(kind: type[sd.Dictionary], library: Any, tmp_path: Path) -> None:
    dictionary = kind(6, 6, 12, **PARTS)
    with torch.no_grad():
        for weight in dictionary.parameters():
            weight += 0.1 * torch.randn_like(weight)
    if kind is Plain and library is sd.formats.circuit_tracer:
        with pytest.raises(TypeError, match=r"must be a distiller.*got Plain"):
            library.write(dictionary, tmp_path)
        return
    library.write(dictionary, tmp_path)
    again = sd.load(tmp_path)
    x = torch.randn(5, 6)
    torch.testing.assert_close(again.encode(x), dictionary.encode(x))
    torch.testing.assert_close(again(x).reconstruction, dictionary(x).reconstruction)


@pytest.mark.as_installed
def test_a_kind_without_a_form_names_the_method_to_override(tmp_path: Path) -> None:
    message = r"Shifted overrides .*`reconstruct`.* and not `exported`\. Override `exported`"
    with pytest.raises(TypeError, match=message):
        sd.formats.sae_lens.write(Shifted(6, 6, 12, **PARTS), tmp_path)
    with pytest.raises(
        TypeError, match="`dictionary` must be a Dictionary to be written in the format of SAELens, got Linear"
    ):
        sd.formats.sae_lens.write(nn.Linear(2, 2), tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
