from __future__ import annotations

import pytest
import torch

from sparsedict.analysis import AblatedError, LatentTypes, ReconstructionError
from sparsedict.figures import Curve, Palette, ablated_errors, curves, points, type_shares

from ._looks import check_looks, legend_of


def error_of(full: float) -> AblatedError:
    parts = {"simulators": ReconstructionError(2 * full, 0.2), "sparse": ReconstructionError(3 * full, 0.3)}
    return AblatedError(ReconstructionError(full, 0.1), parts, 100)


def types_of(n_simulators: int, n_dead: int) -> LatentTypes:
    simulators = torch.arange(20) < n_simulators
    return LatentTypes(simulators, ~simulators, 0.8, torch.arange(20) >= 20 - n_dead)


def test_curves_are_drawn_in_order_of_x_in_the_palettes_colours() -> None:
    ax = curves({"a": Curve([3, 1, 2], [9, 1, 4]), "b": Curve([1, 2], [2, 3], Palette.DEAD)}, "x", "y", levels={"c": 5})
    check_looks(ax)
    assert legend_of(ax) == ["a", "b", "c"]
    assert list(ax.lines[0].get_xdata()) == [1, 2, 3]
    assert [line.get_color() for line in ax.lines] == [Palette.SERIES[0], Palette.DEAD, Palette.SERIES[1]]
    assert len({line.get_marker() for line in ax.lines[:2]}) == 2


def test_logarithmic_axes_have_plain_numbers() -> None:
    ax = curves({"a": Curve([0.1, 1, 10], [0.5, 5, 50])}, "x", "y", x_scale="log", y_scale="log")
    check_looks(ax)
    texts = [text.get_text() for text in ax.get_xticklabels()]
    assert "0.1" in texts
    assert not any("10^" in text for text in texts)


def test_errors_and_shares_along_a_sweep() -> None:
    ax = ablated_errors({0.1: error_of(1.0), 1.0: error_of(2.0)}, ReconstructionError(0.7, 0.1))
    check_looks(ax)
    assert legend_of(ax) == ["full", "simulators ablated", "sparse latents ablated", "autoencoder"]
    assert list(ax.lines[1].get_ydata()) == [2.0, 4.0]
    assert list(ax.lines[3].get_ydata()) == [0.7, 0.7]
    ax = type_shares({0.1: types_of(10, 2), 1.0: types_of(5, 4)})
    check_looks(ax)
    assert list(ax.lines[0].get_ydata()) == [50.0, 25.0]
    assert list(ax.lines[1].get_ydata()) == [10.0, 20.0]


def test_points_leave_out_empty_sets() -> None:
    ax = points({"a": ([1.0, 2.0], [3.0, 4.0]), "b": ([], [])}, "x", "y")
    check_looks(ax)
    assert legend_of(ax) == ["a"]


@pytest.mark.as_installed
def test_refuses_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="`y` must hold a value for each of `x`"):
        Curve([1, 2], [3])
    with pytest.raises(ValueError, match="`curves` must hold at least one"):
        curves({}, "x", "y")
    with pytest.raises(ValueError, match="`x_scale`"):
        curves({"a": Curve([1], [2])}, "x", "y", x_scale="cubic")  # pyright: ignore[reportArgumentType]
