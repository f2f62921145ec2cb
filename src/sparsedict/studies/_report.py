"""Writing of the files of a result: dictionaries, numbers, figures and pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sparsedict import figures, pages
from sparsedict.studies._dictionary_result import DictionaryResult

Draw = Callable[[], Any]


@runtime_checkable
class Reported(Protocol):
    """The members of `Decomposition` that the files are written from."""

    @property
    def results(self) -> Mapping[str, DictionaryResult]: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def seconds(self) -> Mapping[str, float]: ...

    @property
    def note(self) -> str | None: ...

    @property
    def latents(self) -> Mapping[str, pages.DictionaryFacts]: ...

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
        _write_latents(decomposition, folder, strings, progress)
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
        for file, (draw, caption) in _figures(name, result).items():
            captions[figures.save(draw(), folder / "figures" / file)[1]] = caption
    histories = {name: result.history for name, result in decomposition.results.items()}
    if all(len(history) for history in histories.values()):
        file = figures.save(figures.training_curves(histories), folder / "figures" / "training")[1]
        captions[file] = "Fraction of variance unexplained during training."
    return captions


def _figures(name: str, result: DictionaryResult) -> dict[str, tuple[Draw, str]]:
    match, types, firing = result.match, result.types, result.firing
    drawn: dict[str, tuple[Draw, str]] = {}
    if match is not None:
        drawn[f"{name}-decoder-similarity"] = (
            lambda: figures.decoder_similarity(match, types),
            f"Cosine of each decoder row of the {name} with that of the nearest neuron. The line shows the same "
            "number of random directions.",
        )
        if match.encoder_cosine is not None and name == "distiller":
            drawn[f"{name}-encoder-similarity"] = (
                lambda: figures.encoder_similarity(match, types),
                f"The same for the encoder rows of the {name}. The types of latents are determined by the decoder.",
            )
    drawn[f"{name}-firing-frequency"] = (
        lambda: figures.firing_frequency(firing, types),
        f"Firing frequencies of the latents of the {name}.",
    )
    return drawn


def _write_latents(decomposition: Reported, folder: Path, strings: pages.TokenStrings | None, progress: bool) -> None:
    title = f"Latents of {decomposition.settings['site']} of {decomposition.settings['model']}"
    pages.write_pages(
        folder / "latents", decomposition.latents, strings=strings, title=title, keep_records=True, progress=progress
    )


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
    lead = (
        f"Dictionaries with {settings['n_latents']:,} latents each, trained on {settings['n_tokens_trained']:,} tokens."
    )
    title = f"Decomposition of {settings['site']} of {settings['model']}"
    pages.write_overview(folder / "index.html", sections, title=title, lead=lead)


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
