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
    simulators, dead = torch.arange(20) < n_simulators, torch.arange(20) >= 20 - n_dead
    return LatentTypes(simulators, ~simulators & ~dead, 0.8, dead)


def test_curves_are_drawn_in_order_of_x_in_the_palettes_colours() -> None:
    ax = curves({"a": Curve([3, 1, 2], [9, 1, 4]), "b": Curve([1, 2], [2, 3], Palette.DEAD)}, "x", "y", levels={"c": 5})
    check_looks(ax)
    assert legend_of(ax) == ["a", "b", "c"]
    assert list(ax.lines[0].get_xdata()) == [1, 2, 3]
    assert [line.get_color() for line in ax.lines] == [Palette.SERIES[0], Palette.DEAD, Palette.SERIES[1]]
    assert len({line.get_marker() for line in ax.lines[:2]}) == 2


def test_intervals_are_drawn_and_a_single_point_has_no_line() -> None:
    ax = curves({"a": Curve([1, 2], [3, 4], errors=[0.5, (1.0, 2.0)]), "b": Curve([1], [2])}, "x", "y")
    check_looks(ax)
    ends = [list(segment[:, 1]) for segment in ax.collections[0].get_segments()]  # pyright: ignore[reportAttributeAccessIssue]
    assert ends == [[2.5, 3.5], [3.0, 6.0]]
    assert [line.get_linestyle() for line in ax.lines if line.get_label() in ("a", "b")] == ["-", "None"]


def test_logarithmic_axes_have_plain_numbers() -> None:
    ax = curves({"a": Curve([0.1, 1, 10], [0.5, 5, 50])}, "x", "y", x_scale="log", y_scale="log")
    check_looks(ax)
    texts = [text.get_text() for text in ax.get_xticklabels()]
    assert "0.1" in texts
    assert not any("10^" in text for text in texts)


def ticks_of(curve: Curve, **options: object) -> list[str]:
    ax = curves({"a": curve}, "x", "y", **options)  # pyright: ignore[reportArgumentType]
    check_looks(ax)
    return [text.get_text() for text in ax.get_xticklabels()]


def test_places_are_written_below_the_axis_unless_they_would_cover_one_another() -> None:
    assert ticks_of(Curve([8, 16, 31.9996, 32], [1, 2, 3, 4]), x_scale="log") == ["8", "16", "32"]
    assert "22.2" not in ticks_of(Curve([22.2, 23.6, 26.3, 70.1], [1, 2, 3, 4]), x_scale="log")
    assert ticks_of(Curve([0, 1, 2], [1, 2, 3])) == ["0", "1", "2"]


def test_places_can_be_named() -> None:
    assert ticks_of(Curve([1e-5, 0.01], [1, 2]), x_scale="log", x_names={1e-5: "0"}) == ["0", "0.01"]


def test_levels_have_colours_that_no_curve_has() -> None:
    drawn = {"a": Curve([1, 2], [1, 2], Palette.DISTILLER), "b": Curve([1, 2], [2, 3])}
    ax = curves(drawn, "x", "y", levels={"one": 1.0, "two": 2.0})
    assert len({line.get_color() for line in ax.lines[1:]}) == 3
    assert ax.lines[2].get_color() != Palette.DISTILLER


def test_errors_and_shares_along_a_sweep() -> None:
    ax = ablated_errors({0.1: error_of(1.0), 1.0: error_of(2.0)}, ReconstructionError(0.7, 0.1))
    check_looks(ax)
    assert legend_of(ax) == ["full", "sparse latents alone", "simulators alone", "autoencoder"]
    # In the colour of what is left: the simulators are ablated in the second curve, the sparse latents in the third.
    assert list(ax.lines[1].get_ydata()) == [2.0, 4.0]
    assert [line.get_color() for line in ax.lines[1:3]] == [Palette.SPARSE, Palette.SIMULATORS]
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
def test_values_that_cannot_be_drawn_raise() -> None:
    with pytest.raises(ValueError, match="`y` must have one value for each value of `x`"):
        Curve([1, 2], [3])
    with pytest.raises(ValueError, match="`errors` must have one value for each value of `y`"):
        Curve([1], [3], errors=[1, 2])
    with pytest.raises(ValueError, match="`curves` must contain at least one"):
        curves({}, "x", "y")
    with pytest.raises(ValueError, match="`x_scale`"):
        curves({"a": Curve([1], [2])}, "x", "y", x_scale="cubic")  # pyright: ignore[reportArgumentType]
