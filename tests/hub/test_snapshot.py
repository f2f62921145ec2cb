from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import cases
import sparsedict as sd

from ._stand_in import Hub, Repository

pytestmark = pytest.mark.as_installed


def files(dictionary: sd.Dictionary, folder: Path, prefix: str = "") -> dict[str, bytes]:
    dictionary.save(folder)
    return {f"{prefix}{file.name}": file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def repository(served: Hub, tmp_path: Path) -> Repository:
    found = served.repositories.setdefault("owner/coders", Repository())
    found.commit(
        files(cases.make("distiller", "top_k"), tmp_path / "a")
        | files(cases.make("autoencoder", "relu"), tmp_path / "b", "layers/3/")
        | {"README.md": b"# coders", "layers/3/notes.json": b"{}", "layers/3/big.safetensors": b"x" * 1000}
    )
    return found


def test_a_repository_and_a_folder_in_it_are_loaded(served: Hub, repository: Repository) -> None:
    whole = sd.load("hf://owner/coders")
    assert torch.equal(whole.encoder, cases.make("distiller", "top_k").encoder)
    inner = sd.load("hf://owner/coders/layers/3", latents=[2, 5])
    assert torch.equal(inner.decoder, cases.make("autoencoder", "relu").decoder[[2, 5]])


def test_only_the_files_that_are_needed_are_downloaded_and_only_once(served: Hub, repository: Repository) -> None:
    sd.load("hf://owner/coders/layers/3")
    needed = ["layers/3/dictionary.json", "layers/3/dictionary.safetensors"]
    assert served.downloaded() == needed
    sd.load("hf://owner/coders/layers/3")
    assert served.downloaded() == needed


def test_another_librarys_checkpoint_is_loaded(served: Hub, tmp_path: Path) -> None:
    coder = cases.make("autoencoder", "relu", dtype=torch.float32)
    sd.formats.sae_lens.write(coder, tmp_path / "theirs", model_name="gpt2", hook_name="blocks.1.hook_mlp_out")
    written = {f"layer_3/{file.name}": file.read_bytes() for file in (tmp_path / "theirs").iterdir()}
    served.repositories["owner/theirs"] = Repository()
    served.repositories["owner/theirs"].commit(written | {"layer_4/sae_weights.safetensors": b"x"})
    x = cases.tokens(5, dtype=torch.float32)
    wanted = coder(x).reconstruction
    torch.testing.assert_close(sd.load("hf://owner/theirs/layer_3")(x).reconstruction, wanted)
    assert served.downloaded() == sorted(written)
    file = sd.load("hf://owner/theirs/layer_3/sae_weights.safetensors")
    torch.testing.assert_close(file(x).reconstruction, wanted)
    torch.testing.assert_close(sd.formats.sae_lens.read("hf://owner/theirs/layer_3")(x).reconstruction, wanted)


def circuit(tmp_path: Path, prefix: str = "") -> tuple[dict[str, bytes], dict[int, sd.Dictionary]]:
    torch.manual_seed(0)
    parts = {"activation": sd.ReLU(), "decoder_norm": sd.UnitNorm()}
    students: dict[int, sd.Dictionary] = {layer: sd.SparseDistiller(6, 6, 12, **parts) for layer in range(3)}
    hooks = {"input_hook": "mlp.hook_in", "output_hook": "mlp.hook_out"}
    sd.formats.circuit_tracer.write(students, tmp_path / "set", model="gpt2", **hooks)
    return {f"{prefix}{file.name}": file.read_bytes() for file in (tmp_path / "set").iterdir()}, students


@pytest.mark.parametrize("prefix", ["", "sets/all/"])
def test_only_the_requested_layer_of_a_set_is_downloaded(served: Hub, prefix: str, tmp_path: Path) -> None:
    written, students = circuit(tmp_path, prefix)
    served.repositories["owner/set"] = Repository()
    served.repositories["owner/set"].commit(written)
    address = f"hf://owner/set/{prefix}".rstrip("/")
    with pytest.raises(FileNotFoundError, match=rf"{address} contains 3 layers\. .*sd\.load\('{address}/layer_0\.safe"):
        sd.load(address)
    assert served.downloaded() == [f"{prefix}config.yaml"]
    second = sd.formats.circuit_tracer.read(address, layer=1)
    assert torch.equal(second.encoder, students[1].encoder)
    assert served.downloaded() == [f"{prefix}config.yaml", f"{prefix}layer_1.safetensors"]
    assert torch.equal(sd.load(f"{address}/layer_1.safetensors").encoder, second.encoder)
    assert len(served.downloaded()) == 2
    served.stop()
    assert torch.equal(sd.formats.circuit_tracer.read(address, layer=1).encoder, second.encoder)
    with pytest.raises(FileNotFoundError, match=r"must be one of the layers 1 in .*\(only files in the local cache"):
        sd.formats.circuit_tracer.read(address, layer=2)


def test_a_set_on_the_hub_may_list_files_of_other_repositories(served: Hub, tmp_path: Path) -> None:
    written, students = circuit(tmp_path)
    served.repositories["owner/weights"] = Repository()
    served.repositories["owner/weights"].commit({f"layers/{name}": content for name, content in written.items()})
    listed = "".join(f"- hf://owner/weights/layers/layer_{layer}.safetensors?revision=main\n" for layer in range(3))
    config = written["config.yaml"] + b"transcoders:\n" + listed.encode()
    served.repositories["owner/set"] = Repository()
    served.repositories["owner/set"].commit({"config.yaml": config, "features/0.bin": b"x"})
    second = sd.formats.circuit_tracer.read("hf://owner/set", layer=1)
    assert torch.equal(second.encoder, students[1].encoder)
    assert served.downloaded() == ["config.yaml", "layers/layer_1.safetensors"]


def test_a_repository_of_several_lists_them(served: Hub, tmp_path: Path) -> None:
    names = [f"layer_{layer}/width_16k/average_l0_5/params.npz" for layer in range(2)]
    served.repositories["owner/scope"] = Repository()
    served.repositories["owner/scope"].commit(dict.fromkeys([*names, "README.md"], b"x"))
    with pytest.raises(
        FileNotFoundError, match=r"owner/scope contains 2 dictionaries: 'layer_0/.* such as hf://owner/sc"
    ):
        sd.load("hf://owner/scope")
    served.repositories["owner/scope"].commit({"deep/er/and/deeper/x.safetensors": b"x"})
    with pytest.raises(FileNotFoundError, match=r"There are weights in deep/er/and/deeper\."):
        sd.load("hf://owner/scope/deep")
    assert served.downloaded() == ["README.md"]


def test_unrequested_weights_are_not_downloaded(served: Hub, tmp_path: Path) -> None:
    coder = cases.make("autoencoder", "relu", dtype=torch.float32)
    sd.formats.sae_lens.write(coder, tmp_path / "theirs", model_name="gpt2", hook_name="blocks.1.hook_mlp_out")
    written = {file.name: file.read_bytes() for file in (tmp_path / "theirs").iterdir()}
    served.repositories["owner/theirs"] = Repository()
    served.repositories["owner/theirs"].commit(written | {"sparsity.safetensors": b"x", "examples.safetensors": b"x"})
    sd.load("hf://owner/theirs")
    assert served.downloaded() == sorted(written)


def test_a_file_of_a_dictionary_leads_to_its_folder(served: Hub, repository: Repository) -> None:
    with pytest.raises(FileNotFoundError, match=r"is a file\. Pass the folder hf://owner/coders/layers/3\."):
        sd.load("hf://owner/coders/layers/3/dictionary.json")


def test_a_revision_names_an_earlier_state(served: Hub, repository: Repository, tmp_path: Path) -> None:
    first = repository.refs["main"]
    repository.refs["v1"] = first
    repository.commit(files(cases.make("autoencoder", "gelu"), tmp_path / "new"))
    assert isinstance(sd.load("hf://owner/coders"), sd.SparseAutoencoder)
    for revision in ("v1", first):
        assert isinstance(sd.load(f"hf://owner/coders@{revision}"), sd.SparseDistiller)


def test_the_cache_replaces_an_unreachable_hub(
    served: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    wanted = sd.load("hf://owner/coders")
    served.stop()
    assert torch.equal(sd.load("hf://owner/coders").encoder, wanted.encoder)
    with pytest.raises(
        ConnectionError, match="Loading hf://owner/coders/layers/3 needs the hub, which can't be reached"
    ):
        sd.load("hf://owner/coders/layers/3")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(sd.load("hf://owner/coders").encoder, wanted.encoder)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        sd.load("hf://owner/another")


def test_missing_files_are_named(served: Hub, repository: Repository) -> None:
    with pytest.raises(FileNotFoundError, match="there is no repository 'owner/other' on the hub, or it is private"):
        sd.load("hf://owner/other")
    with pytest.raises(FileNotFoundError, match="the repository has no revision 'v9'"):
        sd.load("hf://owner/coders@v9")
    with pytest.raises(
        FileNotFoundError,
        match=r"coders/layers contains no saved dictionary.* Its subfolders 3 contain dictionaries: load one",
    ):
        sd.load("hf://owner/coders/layers")
    with pytest.raises(FileNotFoundError, match="coders/nothing: the repository has no such path"):
        sd.load("hf://owner/coders/nothing")
    with pytest.raises(ValueError, match="An address on the hub must have the form"):
        sd.load("hf://owner")


def test_a_gated_repository_raises_with_the_remedy(served: Hub, repository: Repository) -> None:
    repository.gated = True
    with pytest.raises(PermissionError, match=r"hf://owner/coders is gated. Request access .* `hf auth login`"):
        sd.load("hf://owner/coders")


def test_names_outside_the_repository_are_not_requested(served: Hub, repository: Repository, tmp_path: Path) -> None:
    repository.commit({"../../escaped.safetensors": b"x", "/etc/escaped.json": b"x", "a\\..\\escaped.json": b"x"})
    sd.load("hf://owner/coders")
    assert not [name for name in served.downloaded() if "escaped" in name]
    assert not list(tmp_path.rglob("escaped*"))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"The hub needs the package huggingface_hub: `pip install sparsedict\[hf\]`"):
        sd.load("hf://owner/coders")
