"""Qwen-Scope: one TopK autoencoder of the residual stream for each layer, ``layer{i}.sae.pt``."""

from __future__ import annotations

import os
import re

import torch

from sparsedict import checks
from sparsedict.activations import TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _made as made
from sparsedict.formats._made import Learned, Weights
from sparsedict.formats._pickles import read_pickle
from sparsedict.formats._place import Place, listed
from sparsedict.storage import StorageError

_LAYER = re.compile(r"layer(\d{1,5})\.sae\.pt")
_REPOSITORY = re.compile(r"SAE-Res-(?P<model>[\w.-]+)-W\d+K-L0_(?P<k>\d{1,6})")


def recognises(place: Place) -> bool:
    """Whether the files are Qwen-Scope's."""
    return any(map(_LAYER.fullmatch, [place.named] if place.named is not None else place.entries()))


def read(
    path: str | os.PathLike[str],
    *,
    layer: int | None = None,
    k: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads the autoencoder of one layer: the ``k`` largest of ``max(x @ encoder.T + encoder_bias, 0)``, decoded.

    Args:
        path: The file of one layer, or the folder.
        layer: Which layer, where the path is a folder of several.
        k: Latents that are active on a token. The files don't say; where left out, by the repository's or the folder's
            name, ``SAE-Res-...-L0_50``.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; as in the file where left out.

    Raises:
        FileNotFoundError: If a file is missing, or the folder holds several layers and none was chosen.
        StorageError: If a file is broken, or nothing says ``k``.

    Source: the repositories ``Qwen/SAE-Res-*``, 2026.
    """
    place = Place.of(path)
    name = place.named or _chosen(place, layer)
    number = _LAYER.fullmatch(name)
    tensors = read_pickle(place.weights(name, suffix=".pt"))
    named = _REPOSITORY.search(place.inside(None)) or _REPOSITORY.search(str(place.folder.resolve()))
    if k is None and named is None:
        raise StorageError(
            f"{tensors.file}: nothing says how many latents are active on a token; Qwen-Scope has it in the name of "
            "the repository, such as L0_50. Say so: `sd.formats.qwen_scope.read(path, k=50)`."
        )
    active = checks.at_least("k", int(named["k"]) if k is None and named is not None else k or 0, 1)
    weights = Weights(
        tensors.take("W_enc", "n_latents", "d_in"),
        tensors.take("b_enc", "n_latents"),
        tensors.take_turned("W_dec", "d_in", "n_latents"),
        tensors.take("b_dec", "d_in"),
    )
    tensors.finish("Qwen-Scope")
    known = {"model": f"Qwen/{named['model']}"} if named is not None else {}
    known |= {"site": f"model.layers.{number[1]}:out"} if number is not None else {}
    return made.autoencoder(
        weights,
        Learned(TopK(active)),
        tensors.file,
        offset="none",
        trained_on={"library": "Qwen-Scope", **known},
        device=device,
        dtype=dtype,
    )


def _chosen(place: Place, layer: int | None) -> str:
    files = {int(found[1]): name for name in place.entries() if (found := _LAYER.fullmatch(name))}
    if layer is None and len(files) == 1:
        return next(iter(files.values()))
    if layer not in files:
        what = "holds no such file" if not files else f"holds layers {listed(map(str, sorted(files)))}"
        raise FileNotFoundError(
            f"{place} {what}, and `layer` is {layer}: choose one, such as `sd.formats.qwen_scope.read(path, "
            f"layer={min(files, default=0)})`."
        )
    return files[layer]
