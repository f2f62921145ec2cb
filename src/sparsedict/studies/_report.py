"""The files of a result."""

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
    """The members of `TakenApart` that the report shows."""

    @property
    def results(self) -> Mapping[str, DictionaryResult]: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def seconds(self) -> Mapping[str, float]: ...

    @property
    def note(self) -> str | None: ...

    def table(self) -> str: ...

    def notes(self) -> list[str]: ...

    def to_dict(self) -> dict[str, Any]: ...


def write_report(taken: Reported, folder: Path, strings: pages.TokenStrings | None) -> dict[str, Path]:
    """Writes everything to an empty folder.

    Returns:
        Path relative to the folder of what was written, by what it is; the page to open first.
    """
    captions = _write_figures(taken, folder)
    for name, result in taken.results.items():
        result.dictionary.save(folder / name)
    (folder / "table.txt").write_text(f"{taken}\n", encoding="utf-8")
    numbers = json.dumps(taken.to_dict(), indent=1, allow_nan=False)
    (folder / "results.json").write_text(numbers + "\n", encoding="utf-8")
    _write_examples(taken, folder, strings)
    _write_index(taken, folder, captions)
    return {
        "page": Path("index.html"),
        "examples": Path("examples.html"),
        "numbers": Path("results.json"),
        "table": Path("table.txt"),
        "figures": Path("figures"),
        **{name: Path(name) for name in taken.results},
    }


def _write_figures(taken: Reported, folder: Path) -> dict[Path, str]:
    """Returns the captions by SVG file."""
    captions: dict[Path, str] = {}
    for name, result in taken.results.items():
        for file, (draw, caption) in _figures(name, result).items():
            captions[figures.save(draw(), folder / "figures" / file)[1]] = caption
    histories = {name: result.history for name, result in taken.results.items()}
    if all(len(history) for history in histories.values()):
        file = figures.save(figures.training_curves(histories), folder / "figures" / "training")[1]
        captions[file] = "Variance left unexplained while training."
    return captions


def _figures(name: str, result: DictionaryResult) -> dict[str, tuple[Draw, str]]:
    match, types, firing = result.match, result.types, result.firing
    drawn: dict[str, tuple[Draw, str]] = {}
    if match is not None:
        drawn[f"{name}-decoder-similarity"] = (
            lambda: figures.decoder_similarity(match, types),
            f"Cosine of each decoder row of the {name} with the nearest neuron's. The line shows as many random "
            "directions.",
        )
        if match.encoder_cosine is not None and name == "distiller":
            drawn[f"{name}-encoder-similarity"] = (
                lambda: figures.encoder_similarity(match, types),
                f"The same for the encoder rows of the {name}. The decoder decides the type.",
            )
    drawn[f"{name}-firing-frequency"] = (
        lambda: figures.firing_frequency(firing, types),
        f"How often the latents of the {name} fire.",
    )
    return drawn


def _write_examples(taken: Reported, folder: Path, strings: pages.TokenStrings | None) -> None:
    groups = {
        name: pages.latent_cards(result.examples, firing=result.firing, match=result.match, types=result.types)
        for name, result in taken.results.items()
    }
    inspection = taken.settings["inspection"]
    kind = "latents" if taken.note else "sparse latents"
    lead = (
        f"{taken.settings['site']} of {taken.settings['model']}: up to {inspection['n_shown']} {kind} of each "
        f"dictionary, drawn at random among those that fire on at least {inspection['least_firings']} held-out tokens "
        f"and at most {inspection['most_frequent']:.0%} of them."
    )
    pages.write_examples(folder / "examples.html", groups, strings=strings, lead=lead)


def _write_index(taken: Reported, folder: Path, captions: dict[Path, str]) -> None:
    settings = taken.settings
    links = {
        "examples.html": "top activating examples of some latents",
        "results.json": "every number and setting",
        "table.txt": "the table above, as text",
        **{f"{name}/dictionary.json": f"the {name}: sparsedict.load({name!r})" for name in taken.results},
    }
    times = {name: f"{seconds:.1f} s" for name, seconds in taken.seconds.items()}
    sections = [
        pages.Section("Results", table=taken.table(), notes=taken.notes()),
        pages.Section("Figures", figures=captions),
        pages.Section("Files", links=links),
        pages.Section("Settings", text="The settings that this run used, defaults included.", facts=facts_of(settings)),
        pages.Section("Time", facts=times),
    ]
    lead = f"{settings['n_latents']:,} latents each, trained on {settings['n_tokens_trained']:,} tokens."
    title = f"{settings['site']} of {settings['model']}, taken apart"
    pages.write_overview(folder / "index.html", sections, title=title, lead=lead)


def facts_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns settings as a page shows them, those of parts beside those of the run."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= value if name in ("recipe", "inspection", "environment") else {name: value}
    # The one is what the run asked for, the other the machine's name of it.
    flat["device"] = f"{settings['device']} ({settings['environment']['device']})"
    return {name.replace("_", " "): _listed(value) for name, value in flat.items() if value is not None}


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_listed(item)}" for name, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
