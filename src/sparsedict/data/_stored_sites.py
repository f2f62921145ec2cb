"""Plans a store: its columns, its sites, and the settings that determine its activations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import torch

from sparsedict import checks
from sparsedict.batches import Activations, identity, point_name
from sparsedict.data._columns import STORED_DTYPES
from sparsedict.data._site_capture import SiteCapture
from sparsedict.data._site_metadata import site_metadata
from sparsedict.data._store_description import StoreDescription, tokens_per_shard
from sparsedict.data._tokens import BlockSize, TokenSource
from sparsedict.sites import Site
from sparsedict.sites.models import find_module
from sparsedict.types import Role

ROLES: tuple[Role, ...] = ("inputs", "outputs", "neurons")


def dtype_of_weights(sites: Iterable[Site]) -> torch.dtype:
    """Returns a type for the activations of sites, based on the types of their weights."""
    found = [dtype for site in sites if (dtype := _dtype_of(site)) is not None]
    return reduce(torch.promote_types, found) if found else torch.float32


def _dtype_of(site: Site) -> torch.dtype | None:
    """Returns the type of the weights of a site's module, or of its nearest parent with weights."""
    parts = site.writes.path.split(".")
    for n in range(len(parts), -1, -1):
        module = find_module(site.model, ".".join(parts[:n])) if n else site.model
        weights = () if module is None else module.parameters()
        dtype = next((weight.dtype for weight in weights if weight.is_floating_point()), None)
        if dtype is not None:
            return dtype
    return None


def stored_sites(
    capture: SiteCapture, captured: Activations | None = None
) -> tuple[tuple[tuple[str, int], ...], dict[str, dict[str, Any]]]:
    """Returns the columns of a store, and the columns and metadata of each site.

    Args:
        capture: The sites, with options for capturing.
        captured: Activations of a forward pass, which show the points that share a tensor. By default, points are
            compared.
    """
    columns: dict[object, tuple[str, int]] = {}
    sites: dict[str, dict[str, Any]] = {}
    for name, site in capture.sites.items():
        label = f"{name}/" if name else ""
        points: dict[Role, tuple[object, int]] = {
            "inputs": (site.reads, site.d_in),
            "outputs": (site.writes, site.d_out),
        }
        if name in capture.neurons:
            points["neurons"] = (name, "neurons"), site.neurons.n
        if captured is not None:
            points = {role: (identity(captured[point_name(name, role)]), width) for role, (_, width) in points.items()}
        for role, (point, width) in points.items():
            columns.setdefault(point, (f"{label}{role}", width))
        order = list(columns)
        places = {role: order.index(points[role][0]) if role in points else None for role in ROLES}
        sites[name] = {**site_metadata(site), "d_in": site.d_in, "d_out": site.d_out, **places}
    return tuple(columns.values()), sites


def fingerprint(
    capture: SiteCapture, tokens: TokenSource, size: BlockSize
) -> tuple[dict[str, Any], Activations | None]:
    """Returns a fingerprint of the first forward pass, which detects other models or tokens, and its activations.

    Both are empty for tokens without random access, which are not read in advance.
    """
    block = next(tokens.blocks(None, 0, (0, 0), size), None) if tokens.seeks else None
    if block is None:
        return {}, None
    with capture.evaluating():
        captured = capture.run(block)
    columns = [column for column in captured.distinct().values() if column.is_floating_point()]
    norms = [float(column.double().square().mean().sqrt()) for column in columns]
    digest = hashlib.sha256(block.tokens.numpy().tobytes()).hexdigest()
    return {"first_tokens": digest, "root_mean_squares": norms}, captured


def bytes_per_token(capture: SiteCapture) -> int:
    """Returns the size of the activations of one token, in bytes."""
    columns, _ = stored_sites(capture)
    return sum(width for _, width in columns) * (capture.dtype or dtype_of_weights(capture.sites.values())).itemsize


def plan_store(
    capture: SiteCapture,
    tokens: TokenSource,
    size: BlockSize,
    n_tokens: int | None,
    known: int | None,
    dtype: torch.dtype | None,
    made_by: Mapping[str, Any],
) -> StoreDescription:
    """Returns the description of a store of a stream's first pass.

    Args:
        capture: The sites of the stream, with options for capturing.
        tokens: The tokens of the stream.
        size: Size of the forward passes.
        n_tokens: Number of tokens to store; by default the whole pass.
        known: Number of tokens of the pass, if known.
        dtype: Type of the stored activations; by default that of the stream.
        made_by: Further settings that determine the activations.

    Raises:
        ValueError: If ``n_tokens`` is required, or ``dtype`` isn't supported.
    """
    dtype = dtype or capture.dtype or dtype_of_weights(capture.sites.values())
    if dtype not in STORED_DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(map(str, STORED_DTYPES))}, got {dtype}.")
    if n_tokens is None and known is None:
        raise ValueError(
            "`n_tokens` must be an integer if the number of tokens of a pass is unknown in advance, got None."
        )
    wanted = known if n_tokens is None else checks.at_least("n_tokens", n_tokens, 1)
    assert wanted is not None
    metadata, captured = fingerprint(capture, tokens, size)
    activations, sites = stored_sites(capture, captured)
    return StoreDescription(
        activations=activations,
        sites=sites,
        dtype=dtype,
        n_tokens=wanted if known is None else min(wanted, known),
        tokens_per_shard=tokens_per_shard(activations, dtype),
        origin=tokens.origin,
        made_by={
            "tokens": tokens.origin,
            "n_tokens": wanted,
            **made_by,
            "model_batch_size": size.n_sequences or f"about {size.target} tokens",
            **metadata,
        },
    )
