from __future__ import annotations

import pytest
import torch

from sparsedict.analysis import match_dictionaries
from sparsedict.figures import (
    Curve,
    Palette,
    activation_scatter,
    cluster_sizes,
    cosine_histograms,
    cosine_map,
    curves,
    shared_latents,
)

from ._looks import check_looks, legend_of


def test_the_map_spans_all_cosines(generator: torch.Generator) -> None:
    ax = cosine_map(torch.rand(5, 7, generator=generator))
    assert ax.get_xlabel()
    assert ax.images[0].get_clim() == (-1, 1)
    assert ax.images[0].get_array().shape == (5, 7)  # pyright: ignore[reportOptionalMemberAccess]


def test_the_scatter_has_a_point_for_each_token(generator: torch.Generator) -> None:
    values = torch.rand(50, generator=generator)
    ax = activation_scatter(values, 2 * values, correlation=1.0)
    check_looks(ax)
    assert len(ax.collections[0].get_offsets()) == 50
    assert legend_of(ax) == ["50 tokens, correlation 1.0000"]


def test_shared_latents_of_two_dictionaries(generator: torch.Generator) -> None:
    a = torch.randn(30, 8, generator=generator)
    ax = shared_latents(match_dictionaries(a, a[:10]), ("one", "another"))
    check_looks(ax)
    assert legend_of(ax) == ["one (30)", "another (10)", "random directions"]


def test_histograms_are_densities() -> None:
    ax = cosine_histograms(
        {"a": torch.tensor([0.1, 0.5, 0.5]), "null": torch.tensor([0.2])}, "cosine", colours={"null": Palette.NULL}
    )
    check_looks(ax)
    assert legend_of(ax) == ["a", "null"]
    heights = [patch.get_data().values for patch in ax.patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert [float(values.sum()) / 50 for values in heights] == pytest.approx([1.0, 1.0])


def test_no_two_series_look_the_same() -> None:
    bars = cluster_sizes({str(i): {0: 1, 1: 2} for i in range(12)})
    assert len({(own.patches[0].get_facecolor(), own.patches[0].get_hatch()) for own in bars.containers}) == 12
    lines = curves({str(i): Curve([0, 1], [i, i]) for i in range(12)}, "x", "y")
    assert len({(line.get_color(), line.get_marker()) for line in lines.lines}) == 12


def test_large_clusters_are_counted_together() -> None:
    ax = cluster_sizes({"a": {0: 3, 1: 5, 6: 1, 9: 2}, "b": {1: 4}})
    check_looks(ax)
    heights = [bar.get_height() for bar in ax.containers[0]]  # pyright: ignore[reportGeneralTypeIssues]
    assert heights == [3, 5, 0, 0, 0, 0, 3]
    assert [text.get_text() for text in ax.get_xticklabels()][-1] == "6+"


@pytest.mark.as_installed
def test_rejects_activations_of_other_tokens() -> None:
    with pytest.raises(ValueError, match="`latent` must have the same 3 tokens"):
        activation_scatter(torch.ones(3), torch.ones(4))
