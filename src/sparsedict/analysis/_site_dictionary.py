"""`SiteDictionary`, a dictionary with the site that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.batches import Activations, Points
from sparsedict.sites import Site, Sites


@dataclass(frozen=True, eq=False)
class SiteDictionary:
    """A dictionary with the site that it reads.

    Attributes:
        name: Name of the dictionary.
        adapter: The dictionary.
        site: Name of the site that it reads; ``None`` if it names its points in full, or there is a single site.
    """

    name: str
    adapter: Adapter
    site: str | None = None

    def inputs(self, batch: Activations) -> Tensor:
        """Returns the activations that the dictionary reads, in its dtype and on its device."""
        return self.adapter.fit(self.adapter.inputs(batch if self.site is None else batch.site(self.site)))


def site_dictionaries(
    site: Site | Sites, dictionaries: Mapping[str, Any], reads: Points | None = None
) -> list[SiteDictionary]:
    """Returns several dictionaries with the sites that they read.

    Args:
        site: The site or the sites.
        dictionaries: Dictionaries by name, in the form that `collect` takes.
        reads: The activations that objects of another library read.

    Raises:
        TypeError: If ``dictionaries`` isn't a mapping, or ``site`` isn't a site.
        ValueError: If there is no dictionary, or the points of one are unknown.
    """
    checks.instance("site", site, Site | Sites, "a site or sites, such as `sd.Site(model, path)`")
    if not isinstance(dictionaries, Mapping):
        raise TypeError(
            f"`dictionaries` must map names to dictionaries, such as {{'transcoder': transcoder}}, got "
            f"{type(dictionaries).__name__}."
        )
    if not dictionaries:
        raise ValueError("`dictionaries` must contain at least one dictionary, got none.")
    names = () if isinstance(site, Site) else tuple(site)
    found: list[SiteDictionary] = []
    for key, value in dictionaries.items():
        inner = {f"{key}.{name}": own for name, own in value.items()} if isinstance(value, Mapping) else {key: value}
        if isinstance(value, Mapping) and key not in names:
            raise ValueError(f"`dictionaries[{key!r}]` must be a dictionary, or {key!r} the name of a site.")
        for name, own in inner.items():
            adapter = Adapter(own, reads, argument=f"dictionaries[{name!r}]")
            points = adapter.points[0]
            by_role = isinstance(points, str) and "." not in points
            if names and by_role and key not in names and len(names) > 1:
                raise ValueError(
                    f"`dictionaries[{name!r}]` reads {points!r} of an unknown site. Use the name of its site as the "
                    f"key, one of {', '.join(map(repr, names))}."
                )
            of_site = key if key in names else names[0] if names else None
            found.append(SiteDictionary(name, adapter, of_site if by_role else None))
    return found
