"""Figures without their rendering, which takes most of the time of a small run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c636000000002000148afa471"
    "0000000049454e44ae426082"
)
"""One pixel."""
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'


def _save(_: object, path: Path) -> tuple[Path, Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = (path.with_name(path.name + ending) for ending in (".png", ".svg"))
    png.write_bytes(PNG)
    svg.write_text(SVG, encoding="utf-8")
    return png, svg


@contextmanager
def empty_images() -> Iterator[None]:
    """`sparsedict.figures.save` writes empty images. Its own tests and the gallery render all figures."""
    from sparsedict import figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save", _save)
        yield
