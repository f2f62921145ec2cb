"""Broken and malicious files raise an error that names the file, and no code is executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparsedict as sd
from formats._fixtures import copied, location, read_tensors, weights_file, write_tensors
from sparsedict.storage import StorageError

pytestmark = pytest.mark.as_installed

ONE_OF_EACH = [
    ("sae_lens", "gated"),
    ("sae_lens", "jumprelu_skip_transcoder"),
    ("sparsify", "transcoder_skip"),
    ("dictionary_learning", "matryoshka"),
    ("dictionary_learning", "gated"),
    ("gemma_scope", "first"),
    ("gemma_scope", "second_affine"),
    ("circuit_tracer", "jump_relu_skip"),
]
every_format = pytest.mark.parametrize(("library", "case"), ONE_OF_EACH, ids=list(map("/".join, ONE_OF_EACH)))
HARMLESS = {
    "sparsify": {"without W_skip", "without encoder.bias"},
    "circuit_tracer": {"without W_skip", "without activation_function.threshold"},
    # Without a configuration nothing says that the widths must be equal.
    "gemma_scope": {"without affine_skip_connection", "longer W_enc"},
    # How many there are is in the configuration too, and single numbers may have dimensions.
    "dictionary_learning": {"without k", "deeper k", "deeper threshold", "longer group_sizes"}
    | {f"without {name}" for name in ("threshold", "group_sizes")},
}
"""Damage that leaves a checkpoint of another, sound kind."""

CLEAR = (StorageError, FileNotFoundError)


@every_format
def test_truncated_files_raise_with_their_name(library: str, case: str, tmp_path: Path) -> None:
    folder = copied(library, case, tmp_path)
    file = weights_file(folder)
    whole = file.read_bytes()
    for cut in [*range(24), *np.linspace(24, len(whole) - 1, 40, dtype=int).tolist()]:
        file.write_bytes(whole[:cut])
        with pytest.raises(StorageError) as caught:
            sd.load(folder)
        assert file.name in str(caught.value), cut


@every_format
def test_missing_extra_and_misshapen_tensors_are_named(library: str, case: str, tmp_path: Path) -> None:
    folder = copied(library, case, tmp_path)
    file = weights_file(folder)
    tensors = read_tensors(file)
    damaged = {f"without {name}": {n: t for n, t in tensors.items() if n != name} for name in tensors}
    damaged |= {f"longer {name}": tensors | {name: torch.cat([t, t])} for name, t in tensors.items() if t.ndim}
    damaged |= {f"deeper {name}": tensors | {name: tensor[None, None]} for name, tensor in tensors.items()}
    damaged |= {f"empty {name}": tensors | {name: t[:0]} for name, t in tensors.items() if t.ndim}
    damaged["extra"] = tensors | {"left_over": torch.zeros(3)}
    for what in sorted(damaged.keys() - HARMLESS.get(library, set())):
        write_tensors(file, damaged[what])
        with pytest.raises(StorageError) as caught:
            sd.load(folder)
        assert file.name in str(caught.value), what


@every_format
def test_nan_and_infinite_weights_are_named(library: str, case: str, tmp_path: Path) -> None:
    folder = copied(library, case, tmp_path)
    file = weights_file(folder)
    tensors = read_tensors(file)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        bad = tensor.clone()
        bad[(0,) * bad.ndim] = torch.nan
        write_tensors(file, tensors | {name: bad})
        with pytest.raises(StorageError, match=r"NaN|finite") as caught:
            sd.load(folder)
        assert file.name in str(caught.value), name


@every_format
def test_integers_in_the_place_of_weights_raise(library: str, case: str, tmp_path: Path) -> None:
    folder = copied(library, case, tmp_path)
    file = weights_file(folder)
    tensors = read_tensors(file)
    name = next(n for n in tensors if n.lower() in ("w_dec", "decoder.weight"))
    write_tensors(file, tensors | {name: tensors[name].to(torch.int64)})
    with pytest.raises(StorageError, match="must contain floating-point numbers"):
        sd.load(folder)


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = copied("sae_lens", "topk", tmp_path)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        sd.formats.sae_lens.read(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Pickles


class _Marks:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.mark,))


@pytest.mark.parametrize("form", ["inside a state dict", "as the state dict", "bare", "an old file", "protocol 4"])
def test_code_in_a_pickle_is_never_run(form: str, tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "ae.pt"
    code = _Marks(mark)
    state = {"encoder.weight": torch.zeros(3, 2), "bias": code}
    if form == "bare":
        file.write_bytes(pickle.dumps(code))
    elif form == "an old file":
        torch.save(state, file, _use_new_zipfile_serialization=False)
    elif form == "protocol 4":
        torch.save(state, file, pickle_protocol=4)
    else:
        torch.save(state if form.startswith("inside") else code, file)
    for path in (file, tmp_path):
        with pytest.raises(StorageError, match=r"run code|isn't opened"):
            sd.load(path)
    assert not mark.exists()


def test_a_whole_model_raises_with_the_remedy(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "ae.pt")
    with pytest.raises(StorageError, match=r"torch\.nn\.modules\.linear\.Linear.*save `model\.state_dict\(\)`"):
        sd.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        {"a": {"b": torch.zeros(2)}},
        {1: torch.zeros(2)},
        {"a": torch.zeros(2).to_sparse()},
        {"a": torch.zeros(2, device="meta")},
        {"a": "text", "b": 3},
        torch.zeros(3),
        {"a": torch.zeros(1).expand(10**6, 10**6)},
    ],
    ids=["list", "nested", "number", "sparse", "meta", "text", "tensor", "expanded"],
)
def test_a_pickle_of_something_else_raises(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "ae.pt")
    with pytest.raises(StorageError, match=r"ae\.pt"):
        sd.load(tmp_path)


def test_a_compressed_torch_file_raises(tmp_path: Path) -> None:
    written = io.BytesIO()
    torch.save({"a": torch.zeros(10**6)}, written)
    with zipfile.ZipFile(written) as plain, zipfile.ZipFile(tmp_path / "ae.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for info in plain.infolist():
            packed.writestr(info.filename, plain.read(info))
    with pytest.raises(StorageError, match="must not be compressed"):
        sd.load(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Bombs


def test_an_npz_that_grows_beyond_bounds_raises_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "params.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("W_enc.npy", "w") as stream:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (20 * 2**20,)})
        stream.write(header.getvalue())
        for _ in range(80):
            stream.write(bytes(2**20))
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"params\.npz has .* would decompress to"):
        sd.load(file)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("shape", [(2**40, 2**20), (10**18,), (-1, 3)])
def test_an_npz_of_huge_declared_shape_raises(shape: tuple[int, ...], tmp_path: Path) -> None:
    file = tmp_path / "params.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("W_enc.npy", header.getvalue() + bytes(64))
    with pytest.raises(StorageError, match=r"params\.npz"):
        sd.load(file)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 12), ",  # found by the fuzzer: NumPy's own parser fails
        b"(" * 9_000,
        b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }",
        b"{'descr': '<f4', 'fortran_order': 3, 'shape': 5, }",
        b"__import__('os').mkdir('made')",
        b"\xff\xfe",
        b"",
    ],
    ids=["cut", "nested", "records", "types", "code", "bytes", "empty"],
)
def test_broken_headers_in_an_npz_raise(header: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8))
    with pytest.raises(StorageError, match=r"params\.npz"):
        sd.load(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["params.npz"]


def test_objects_in_an_npz_are_never_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    np.savez(tmp_path / "params.npz", W_enc=np.array([_Marks(mark)], dtype=object))
    with pytest.raises(StorageError, match="must contain numbers"):
        sd.load(tmp_path)
    assert not mark.exists()


def _safetensors(header: dict[str, Any] | bytes, content: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + content


@pytest.mark.parametrize(
    "content",
    [
        _safetensors({"W_enc": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 8]}}, bytes(8)),
        _safetensors({"W_enc": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 2**60]}}, bytes(8)),
        _safetensors({"W_enc": {"dtype": "F32", "shape": [-1, 1], "data_offsets": [0, 8]}}, bytes(8)),
        _safetensors(b'{"a":' * 100_000),
        struct.pack("<Q", 2**62) + b"{}",
        _safetensors(
            {f"t{i}": {"dtype": "F32", "shape": [], "data_offsets": [4 * i, 4 * i + 4]} for i in range(5_000)},
            bytes(20_000),
        ),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"",
        b"PK\x03\x04rest",
    ],
    ids=["shape", "offsets", "negative", "nested", "header", "many", "lfs", "empty", "zip"],
)
def test_broken_safetensors_raise(content: bytes, tmp_path: Path) -> None:
    folder = copied("sae_lens", "topk", tmp_path)
    (folder / "sae_weights.safetensors").write_bytes(content)
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"sae_weights\.safetensors"):
        sd.load(folder)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{" * 100_000,
        b'{"k":' * 50_000,
        b'{"k": ' + b"9" * 100_000 + b"}",
        b'{"k": NaN}',
        b'{"k": 1e999}',
        b"\xff\xfe",
        b'{"k": "' + b"x" * (5 * 2**20) + b'"}',
        b'{"k": 1, "k": 2}',
    ],
    ids=["empty", "list", "braces", "nested", "digits", "nan", "float", "bytes", "long", "twice"],
)
def test_json_bombs_raise(content: bytes, tmp_path: Path) -> None:
    for library, case in (("sae_lens", "topk"), ("sparsify", "autoencoder")):
        folder = copied(library, case, tmp_path)
        (folder / "cfg.json").write_bytes(content)
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"cfg\.json"):
            sd.load(folder)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [x, x]\nb: &b [*a, *a, *a]\nmodel_kind: *b",
        "model_kind: " + "[" * 10_000,
        "- a\n- b",
        "model_kind: !!python/object/apply:os.system ['true']",
        "x" * 300_000,
        "a: 1\n" * 40_000,
        "\t\tbad: [",
        "",
        "1: 2",
        "model_kind: 2001-99-99",
        "model_kind: " + "1" * 5000,
        "model_kind: something_else",
        "\x00",
    ],
    ids=[
        *("aliases", "nested", "list", "tag", "long", "many", "broken", "empty", "number", "date", "digits", "kind"),
        "control",
    ],
)
def test_yaml_bombs_raise(content: str, tmp_path: Path) -> None:
    folder = copied("circuit_tracer", "relu", tmp_path)
    (folder / "config.yaml").write_text(content)
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"config\.yaml"):
        sd.load(folder)
    assert time.monotonic() - started < 5


# ---------------------------------------------------------------------------------------------------------------------
# Paths


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "inner/layer_0.safetensors", ""])
def test_a_configuration_can_t_name_files_elsewhere(name: str, tmp_path: Path) -> None:
    folder = copied("circuit_tracer", "relu", tmp_path)
    config = folder / "config.yaml"
    config.write_text(config.read_text() + f"transcoders: [{json.dumps(name)}]\n")
    with pytest.raises(StorageError, match="must not lead out of the folder"):
        sd.load(folder)


def test_links_out_of_the_folder_raise(tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    folder = copied("sae_lens", "topk", tmp_path)
    weights = folder / "sae_weights.safetensors"
    weights.rename(outside)
    weights.symlink_to(outside)
    with pytest.raises(StorageError, match="must not link out of its folder"):
        sd.load(folder)
    weights.unlink()
    weights.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="broken link"):
        sd.load(folder)
    weights.unlink()
    weights.mkdir()
    with pytest.raises(StorageError, match="must be a regular file"):
        sd.load(folder)
    weights.rmdir()
    os.mkfifo(weights)
    with pytest.raises(StorageError, match="must be a regular file"):
        sd.load(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Fuzzing


_plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8)
_json = st.recursive(
    _plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
FUZZED = [
    ("sae_lens", "topk", "cfg.json"),
    ("sae_lens", "old_topk", "cfg.json"),
    ("sparsify", "autoencoder", "cfg.json"),
    ("dictionary_learning", "k_on_average", "config.json"),
]


@pytest.mark.parametrize(("library", "case", "name"), FUZZED, ids=[f"{library}/{case}" for library, case, _ in FUZZED])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_configuration_loads_or_raises(
    library: str, case: str, name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = copied(library, case, tmp_path_factory.mktemp("fuzzed"))
    file = folder / name
    document = json.loads(file.read_text())
    inner = document.get("trainer", document)
    keys = data.draw(st.lists(st.sampled_from([*inner, "signed", "scaling_factor", "activation_fn_str"]), max_size=3))
    for key in keys:
        inner[key] = data.draw(_json)
    file.write_text(json.dumps(document if data.draw(st.integers(0, 9)) else data.draw(_json)))
    try:
        loaded = sd.load(folder)
    except CLEAR:
        return
    assert loaded(torch.zeros(1, loaded.d_in)).reconstruction.isfinite().all()


@every_format
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_bytes_load_or_raise(
    library: str, case: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = copied(library, case, tmp_path_factory.mktemp("fuzzed"))
    file = weights_file(folder)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(content))
    try:
        loaded = sd.load(folder)
    except CLEAR:
        return
    assert loaded.n_latents == 12


def test_the_fixture_itself_loads() -> None:
    for library, case in ONE_OF_EACH:
        assert sd.load(location(library, case)).n_latents == 12
