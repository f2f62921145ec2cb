from __future__ import annotations

from itertools import combinations

from matplotlib.colors import to_rgb

from sparsedict.figures import Palette


def luminance(colour: str) -> float:
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), to_rgb(colour), strict=True))


def test_types_differ_in_grey_or_along_the_axis_that_colour_blind_people_see() -> None:
    kinds = (Palette.SIMULATORS, Palette.SPARSE, Palette.DEAD)
    for a, b in combinations(kinds, 2):
        blue = abs(to_rgb(a)[2] - to_rgb(b)[2])
        assert max(abs(luminance(a) - luminance(b)), blue) > 0.15


def test_series_are_distinct() -> None:
    assert len(set(Palette.SERIES)) == len(Palette.SERIES)
