"""What a store says of the sites and of the stream that it was made by."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from sparsedict.data._facts import site_facts
from sparsedict.data._harvest import Harvester, evaluating
from sparsedict.data._layout import Layout
from sparsedict.data._tokens import BlockSize, TokenSource
from sparsedict.types import Role

ROLES: tuple[Role, ...] = ("inputs", "outputs", "neurons")


def own_dtype(model: nn.Module) -> torch.dtype:
    """Returns the type of a model's activations, as far as its weights tell."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def stored_sites(
    harvester: Harvester, layout: Layout | None = None
) -> tuple[tuple[tuple[str, int], ...], dict[str, dict[str, Any]]]:
    """Returns the columns that sites give, and where each site finds its own.

    Args:
        harvester: Of the sites.
        layout: Which of what a forward pass gave is one tensor; by the points of the model where left out.
    """
    columns: dict[object, tuple[str, int]] = {}
    sites: dict[str, dict[str, Any]] = {}
    for name, site in harvester.sites.items():
        label = "" if name is None else f"{name}/"
        points: dict[Role, tuple[object, int]] = {
            "inputs": (site.reads, site.d_in),
            "outputs": (site.writes, site.d_out),
        }
        if name in harvester.neurons:
            points["neurons"] = (name, "neurons"), site.neurons.n
        if layout is not None:
            own = dict(zip(ROLES, layout.places[name], strict=True))
            points = {role: (own[role], width) for role, (_, width) in points.items()}
        for role, (point, width) in points.items():
            columns.setdefault(point, (f"{label}{role}", width))
        order = list(columns)
        places = {role: order.index(points[role][0]) if role in points else None for role in ROLES}
        sites[name or ""] = {**site_facts(site), "d_in": site.d_in, "d_out": site.d_out, **places}
    return tuple(columns.values()), sites


def probed(harvester: Harvester, tokens: TokenSource, size: BlockSize) -> tuple[dict[str, Any], Layout | None]:
    """Returns what the first forward pass reads and gives, by which another model or other tokens are noticed.

    Also which of it is one tensor. Tokens that can be gone through only in their own order are left alone.
    """
    block = next(tokens.blocks(None, 0, (0, 0), size), None) if tokens.seeks else None
    if block is None:
        return {}, None
    with evaluating(harvester.model):
        layout, columns = harvester.capture(block)
    norms = [float(column.double().square().mean().sqrt()) for column in columns]
    digest = hashlib.sha256(block.tokens.numpy().tobytes()).hexdigest()
    return {"first_tokens": digest, "root_mean_squares": norms}, layout
