"""What a store says of the sites and of the stream that it was made by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

import torch

from sparsedict import checks
from sparsedict.batches import Activations, identity, point_name
from sparsedict.data._harvester import Harvester
from sparsedict.data._shards import DTYPES
from sparsedict.data._site_metadata import site_metadata
from sparsedict.data._store_description import StoreDescription, tokens_per_shard
from sparsedict.data._tokens import BlockSize, TokenSource
from sparsedict.sites import Site
from sparsedict.sites.models import find_module
from sparsedict.types import Role

ROLES: tuple[Role, ...] = ("inputs", "outputs", "neurons")


def own_dtype(sites: Iterable[Site]) -> torch.dtype:
    """Returns a type that holds the activations of sites, as far as the weights there tell."""
    found = [dtype for site in sites if (dtype := _dtype_of(site)) is not None]
    return reduce(torch.promote_types, found) if found else torch.float32


def _dtype_of(site: Site) -> torch.dtype | None:
    """Returns the type of the weights nearest to a site: its own, or those of what it lies in."""
    parts = site.writes.path.split(".")
    for n in range(len(parts), -1, -1):
        module = find_module(site.model, ".".join(parts[:n])) if n else site.model
        weights = () if module is None else module.parameters()
        dtype = next((weight.dtype for weight in weights if weight.is_floating_point()), None)
        if dtype is not None:
            return dtype
    return None


def stored_sites(
    harvester: Harvester, captured: Activations | None = None
) -> tuple[tuple[tuple[str, int], ...], dict[str, dict[str, Any]]]:
    """Returns the columns that sites give, and where each site finds its own.

    Args:
        harvester: Of the sites.
        captured: Activations of a forward pass, in which points may share a tensor; by the points of the model where
            left out.
    """
    columns: dict[object, tuple[str, int]] = {}
    sites: dict[str, dict[str, Any]] = {}
    for name, site in harvester.sites.items():
        label = f"{name}/" if name else ""
        points: dict[Role, tuple[object, int]] = {
            "inputs": (site.reads, site.d_in),
            "outputs": (site.writes, site.d_out),
        }
        if name in harvester.neurons:
            points["neurons"] = (name, "neurons"), site.neurons.n
        if captured is not None:
            points = {role: (identity(captured[point_name(name, role)]), width) for role, (_, width) in points.items()}
        for role, (point, width) in points.items():
            columns.setdefault(point, (f"{label}{role}", width))
        order = list(columns)
        places = {role: order.index(points[role][0]) if role in points else None for role in ROLES}
        sites[name] = {**site_metadata(site), "d_in": site.d_in, "d_out": site.d_out, **places}
    return tuple(columns.values()), sites


def probed(harvester: Harvester, tokens: TokenSource, size: BlockSize) -> tuple[dict[str, Any], Activations | None]:
    """Returns what the first forward pass reads and gives, by which another model or other tokens are noticed.

    Also which of it is one tensor. Tokens that can be gone through only in their own order are left alone.
    """
    block = next(tokens.blocks(None, 0, (0, 0), size), None) if tokens.seeks else None
    if block is None:
        return {}, None
    with harvester.evaluating():
        captured = harvester.capture(block)
    columns = [column for column in captured.distinct().values() if column.is_floating_point()]
    norms = [float(column.double().square().mean().sqrt()) for column in columns]
    digest = hashlib.sha256(block.tokens.numpy().tobytes()).hexdigest()
    return {"first_tokens": digest, "root_mean_squares": norms}, captured


def bytes_per_token(harvester: Harvester) -> int:
    """Returns what the activations of one token take, in bytes."""
    columns, _ = stored_sites(harvester)
    return sum(width for _, width in columns) * (harvester.dtype or own_dtype(harvester.sites.values())).itemsize


def planned(
    harvester: Harvester,
    tokens: TokenSource,
    size: BlockSize,
    n_tokens: int | None,
    known: int | None,
    dtype: torch.dtype | None,
    made_by: Mapping[str, Any],
) -> StoreDescription:
    """Returns what a store of a stream's first pass will hold.

    Args:
        harvester: Of the stream.
        tokens: That it harvests.
        size: Of its forward passes.
        n_tokens: To store; all of the pass where left out.
        known: Tokens of the pass, where known.
        dtype: To store them in; as they are served where left out.
        made_by: What else decides which activations these are.

    Raises:
        ValueError: If ``n_tokens`` must be given, or a store can't have that type.
    """
    dtype = dtype or harvester.dtype or own_dtype(harvester.sites.values())
    if dtype not in DTYPES.values():
        raise ValueError(f"`dtype` must be one of {', '.join(map(str, DTYPES.values()))}, got {dtype}.")
    if n_tokens is None and known is None:
        raise ValueError("`n_tokens` must be given where the tokens of a pass aren't known before it is made.")
    wanted = known if n_tokens is None else checks.at_least("n_tokens", n_tokens, 1)
    assert wanted is not None
    metadata, captured = probed(harvester, tokens, size)
    columns, sites = stored_sites(harvester, captured)
    description = StoreDescription(
        columns=columns,
        sites=sites,
        dtype=dtype,
        n_tokens=wanted if known is None else min(wanted, known),
        tokens_per_shard=1,
        origin=tokens.origin,
        made_by={
            "tokens": tokens.origin,
            "n_tokens": wanted,
            **made_by,
            "model_batch_size": size.n_sequences or f"about {size.target} tokens",
            **metadata,
        },
    )
    return replace(description, tokens_per_shard=tokens_per_shard(description.bytes_per_token))
