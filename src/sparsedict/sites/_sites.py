"""Several sites at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from sparsedict.batches import Activations
from sparsedict.sites._capture import capture_sites
from sparsedict.sites._site import Site
from sparsedict.sites._tokens import Tokens


class Sites(Mapping[str, Site]):
    """Several sites by name, of one model or of several models that take the same tokens.

    Activations of all sites are captured in one forward pass per model. Their points carry the site's name, such as
    ``"0.inputs"``.

    Args:
        model: The model that all sites belong to, or a mapping of names to sites.
        paths: Dotted paths of the MLPs by the name of the site, such as ``{"0": "transformer.h.0.mlp"}``.
        exclude_tokens: See `Site`; for sites that are made of ``paths``.
        exclude_first: See `Site`; for sites that are made of ``paths``.

    Raises:
        TypeError: If something isn't a site.
        ValueError: If there is no site, a name is empty, or a path leads to no module.

    Example:
        >>> import torch
        >>> mlps = [torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)) for _ in "ab"]
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), *mlps)
        >>> sites = Sites(model, {"0": "1", "1": "2"})
        >>> captured = sites.capture(torch.tensor([[1, 2, 3]]))
        >>> list(captured), captured["1.outputs"].shape
        (['0.inputs', '0.outputs', '1.inputs', '1.outputs'], torch.Size([1, 3, 4]))
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, Site],
        paths: Mapping[str, str] | None = None,
        *,
        exclude_tokens: Sequence[int] = (),
        exclude_first: int = 0,
    ) -> None:
        if isinstance(model, Mapping):
            if paths is not None or exclude_tokens or exclude_first:
                raise TypeError("`paths` and exclusions belong to sites of one model; these are sites already.")
            self._sites: dict[str, Site] = dict(model)
        else:
            if not isinstance(paths, Mapping):
                raise TypeError(f"`paths` must map names to paths, such as {{'0': 'h.0.mlp'}}, got {paths!r}.")
            options = {"exclude_tokens": exclude_tokens, "exclude_first": exclude_first}
            self._sites = {name: Site(model, path, **options) for name, path in paths.items()}
        if not self._sites:
            raise ValueError("`sites` must name at least one site, got an empty mapping.")
        for name, site in self._sites.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"Names of sites must be texts that aren't empty, got {name!r}.")
            if not isinstance(site, Site):
                raise TypeError(f"`sites` must map names to Sites, got {type(site).__name__} for {name!r}.")

    def __getitem__(self, name: str) -> Site:
        return self._sites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        return f"Sites({self._sites!r})"

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """The models that the sites belong to."""
        return tuple({id(site.model): site.model for site in self.values()}.values())

    def capture(self, tokens: Tokens, *, neurons: bool | Sequence[str] = False) -> Activations:
        """Returns what the MLPs read and write for these tokens, without gradients.

        Args:
            tokens: As for `Site.capture`; every model is run on them.
            neurons: Whether to capture the MLPs' hidden activations too, or the names of the sites where to.
        """
        return capture_sites(self, tokens, neurons=neurons)
