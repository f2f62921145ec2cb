"""Writing of the files of a result: dictionaries, numbers, figures and pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sparsedict import figures, pages
from sparsedict.dictionaries import Dictionary
from sparsedict.training import History

Draw = Callable[[], Any]


@runtime_checkable
class Measured(Protocol):
    """The members of a result of one dictionary that the files are written from."""

    @property
    def dictionary(self) -> Dictionary: ...

    @property
    def history(self) -> History: ...

    def figures(self, name: str) -> dict[str, tuple[Draw, str]]: ...


@runtime_checkable
class Reported(Protocol):
    """The members of `Decomposition` and `JointDecomposition` that the files are written from."""

    @property
    def results(self) -> Mapping[str, Measured]: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def seconds(self) -> Mapping[str, float]: ...

    @property
    def latents(self) -> Mapping[str, pages.DictionaryFacts]: ...

    @property
    def subject(self) -> str: ...

    @property
    def lead(self) -> str: ...

    def table(self) -> str: ...

    def notes(self) -> list[str]: ...

    def to_dict(self) -> dict[str, Any]: ...


def write_report(
    decomposition: Reported, folder: Path, strings: pages.TokenStrings | None, *, progress: bool = False
) -> dict[str, Path]:
    """Writes all files of a result to an empty folder.

    Args:
        decomposition: The result.
        folder: The folder.
        strings: Function from token ids to text, for the examples.
        progress: Whether to show the size of the pages of latents before they are written, and a progress bar.

    Returns:
        The path of each file or subfolder, relative to the folder, by its kind. The main page is first.
    """
    captions = _write_figures(decomposition, folder)
    for name, result in decomposition.results.items():
        result.dictionary.save(folder / name)
    (folder / "table.txt").write_text(f"{decomposition}\n", encoding="utf-8")
    numbers = json.dumps(decomposition.to_dict(), indent=1, allow_nan=False)
    (folder / "results.json").write_text(numbers + "\n", encoding="utf-8")
    if decomposition.latents:
        how: dict[str, Any] = {"title": f"Latents of {decomposition.subject}", "keep_records": True}
        pages.write_pages(folder / "latents", decomposition.latents, strings=strings, progress=progress, **how)
    _write_index(decomposition, folder, captions)
    return {
        "page": Path("index.html"),
        **({"latents": Path("latents/index.html")} if decomposition.latents else {}),
        "numbers": Path("results.json"),
        "table": Path("table.txt"),
        "figures": Path("figures"),
        **{name: Path(name) for name in decomposition.results},
    }


def _write_figures(decomposition: Reported, folder: Path) -> dict[Path, str]:
    """Writes the figures. Returns the caption of each SVG file."""
    captions: dict[Path, str] = {}
    for name, result in decomposition.results.items():
        for file, (draw, caption) in result.figures(name).items():
            captions[figures.save(draw(), folder / "figures" / file)[1]] = caption
    histories = {name: result.history for name, result in decomposition.results.items()}
    if all(len(history) for history in histories.values()):
        file = figures.save(figures.training_curves(histories), folder / "figures" / "training")[1]
        captions[file] = "Fraction of variance unexplained during training."
    return captions


def _write_index(decomposition: Reported, folder: Path, captions: dict[Path, str]) -> None:
    settings = decomposition.settings
    links = {
        **({"latents/index.html": "all latents with their examples"} if decomposition.latents else {}),
        "results.json": "all numbers and settings",
        "table.txt": "the table above as text",
        **{f"{name}/dictionary.json": f"the {name}: sparsedict.load({name!r})" for name in decomposition.results},
    }
    times = {name: f"{seconds:.1f} s" for name, seconds in decomposition.seconds.items()}
    sections = [
        pages.Section("Results", table=decomposition.table(), notes=decomposition.notes()),
        pages.Section("Figures", figures=captions),
        pages.Section("Files", links=links),
        pages.Section("Settings", text="All settings of this run, including defaults.", facts=facts_of(settings)),
        pages.Section("Time", facts=times),
    ]
    title = f"Decomposition of {decomposition.subject}"
    pages.write_overview(folder / "index.html", sections, title=title, lead=decomposition.lead)


def facts_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns all settings as text for a page, with nested settings flattened."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= value if name in ("recipe", "inspection", "environment") else {name: value}
    # The PyTorch device, and the name of the hardware.
    flat["device"] = f"{settings['device']} ({settings['environment']['device']})"
    return {name.replace("_", " "): _listed(value) for name, value in flat.items() if value is not None}


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_listed(item)}" for name, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
