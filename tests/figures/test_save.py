from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes

from sparsedict.analysis import FiringFrequencies, LatentTypes
from sparsedict.figures import firing_frequency, save


@pytest.mark.parametrize("name", ["figure", "figure.png", "figure.svg"])
def test_writes_both_forms(name: str, firing: FiringFrequencies, tmp_path: Path) -> None:
    png, svg = save(firing_frequency(firing), tmp_path / "new" / name)
    assert (png.name, svg.name) == ("figure.png", "figure.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in svg.read_bytes()


def test_the_same_figure_gives_the_same_bytes(firing: FiringFrequencies, types: LatentTypes, tmp_path: Path) -> None:
    first = [file.read_bytes() for file in save(firing_frequency(firing, types), tmp_path / "a")]
    second = [file.read_bytes() for file in save(firing_frequency(firing, types), tmp_path / "b")]
    assert first == second


def test_takes_the_figure_as_well_as_its_axes(firing: FiringFrequencies, tmp_path: Path) -> None:
    # Two figures, for drawing one again may move its parts by a little.
    first, second = firing_frequency(firing), firing_frequency(firing)
    assert isinstance(second, Axes)
    assert save(first.figure, tmp_path / "a")[0].read_bytes() == save(second, tmp_path / "b")[0].read_bytes()


@pytest.mark.as_installed
def test_rejects_other_things(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"`figure` must be a matplotlib Figure or Axes, got str"):
        save("figure", tmp_path / "a")  # pyright: ignore[reportArgumentType]
