"""`SiteCapture`, which runs a model on a block of tokens and captures the activations of its sites."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.batches import Activations, point_name
from sparsedict.data._tokens import Block
from sparsedict.sites import Site, capture_sites
from sparsedict.sites.models import TokenContext, evaluating, is_seq2seq, stack


@dataclass(frozen=True)
class SiteCapture:
    """Captures the activations of a stream's sites.

    Attributes:
        sites: Sites by name. A single site has an empty name.
        neurons: Names of the sites whose hidden activations are also captured.
        dtype: Type of the activations; ``None`` for the model's.
        device: Device of the activations; ``None`` for the model's.
    """

    sites: Mapping[str, Site]
    neurons: frozenset[str]
    dtype: torch.dtype | None
    device: torch.device | None

    @classmethod
    def from_sites(
        cls,
        sites: Site | Mapping[str, Site],
        neurons: bool | Iterable[str],
        dtype: torch.dtype | None,
        device: torch.device | None,
    ) -> SiteCapture:
        """Checks the arguments of a stream.

        Raises:
            TypeError: If ``sites`` contains another object than sites.
            ValueError: If there is no site, or ``neurons`` names an unknown site.
        """
        by_name = _by_name(sites)
        return cls(by_name, _chosen(by_name, neurons), dtype, device)

    @property
    def model(self) -> nn.Module:
        """The model of the first site."""
        return next(iter(self.sites.values())).model

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """The distinct models of the sites."""
        return tuple({id(site.model): site.model for site in self.sites.values()}.values())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context with the models in evaluation mode."""
        with ExitStack() as stack:
            for model in self.models:
                stack.enter_context(evaluating(model))
            yield

    @property
    def by_token(self) -> bool:
        """Whether some token ids are excluded."""
        return any(site.exclusion.tokens for site in self.sites.values())

    def kept(self, block: Block) -> Tensor | None:
        """Returns the positions that no site excludes, as flat indices on the CPU; ``None`` for all positions."""
        seen = TokenContext(block.tokens.shape, block.tokens, block.attention_mask)
        mask = None
        for exclusion in {site.exclusion for site in self.sites.values()}:
            own = seen.kept(block.tokens.shape, exclusion, block.tokens.device)
            if own is not None:
                mask = own if mask is None else mask & own
        if mask is None or bool(mask.all()):
            return None
        return mask.flatten().nonzero().squeeze(-1)

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the points that are captured."""
        return tuple(
            point_name(name, role)
            for name in self.sites
            for role in ("inputs", "outputs", *(["neurons"] if name in self.neurons else []))
        )

    def run(self, block: Block) -> Activations:
        """Returns the activations at all positions of a block, as rows."""
        tokens = block.tokens
        if block.attention_mask is not None and all(map(takes_mask, self.models)):
            tokens = {"input_ids": block.tokens, "attention_mask": block.attention_mask.long()}
        captured = capture_sites(self.sites, tokens, neurons=self.neurons)
        if captured.n_tokens != block.tokens.numel():
            raise ValueError(
                f"{next(iter(self.sites.values()))!r} must have one activation per token, got activations of leading "
                f"shape {tuple(captured.shape)} for tokens {tuple(block.tokens.shape)}. Choose another site."
            )
        rows = Activations({name: captured[name].flatten(0, -2) for name in captured})
        device = next(iter(rows.values())).device
        seen = TokenContext(block.tokens.shape, block.tokens, block.attention_mask)
        rows.tokens = block.tokens.flatten().to(device)
        rows.positions = seen.positions(block.tokens.device).flatten().to(device)
        return rows


def takes_mask(model: nn.Module) -> bool:
    """Whether a model takes an ``attention_mask``."""
    checks.instance("model", model, nn.Module, "a torch.nn.Module")
    parameters = inspect.signature(model.forward).parameters.values()
    return any(p.name == "attention_mask" or p.kind is p.VAR_KEYWORD for p in parameters)


def _by_name(sites: Site | Mapping[str, Site]) -> dict[str, Site]:
    by_name: dict[str, Site] = {**sites} if isinstance(sites, Mapping) else {"": sites}
    if not by_name:
        raise ValueError("`sites` must name at least one site, got an empty mapping.")
    for name, site in by_name.items():
        if not isinstance(site, Site):
            hint = " Write `Site(model, path)`." if isinstance(site, nn.Module | str) else ""
            raise TypeError(
                f"`sites` must be a Site or a mapping of names to Sites, got {type(site).__name__} for {name!r}.{hint}"
            )
        if _reads_decoder_tokens(site):
            raise ValueError(
                f"`sites` must not be in the decoder of an encoder-decoder model, got {site!r}: a stream only passes "
                "`input_ids` to the model. Capture it with `site.capture(batch)`, where `batch` has "
                "`decoder_input_ids` or `labels`, and train on `captured.batch()`."
            )
    return by_name


def _reads_decoder_tokens(site: Site) -> bool:
    return is_seq2seq(site.model) and stack(site.model, site.writes.module) == "decoder"


def _chosen(sites: Mapping[str, Site], neurons: bool | Iterable[str]) -> frozenset[str]:
    if isinstance(neurons, bool):
        return frozenset(sites if neurons else ())
    if not isinstance(neurons, str):
        neurons = checks.items("neurons", neurons, Hashable, "True, False or names of the sites")
    chosen = frozenset(neurons)
    if not chosen <= sites.keys():
        raise ValueError(
            f"`neurons` must be names of the sites, {sorted(map(str, sites))}, got {sorted(map(str, chosen))}."
        )
    return chosen
