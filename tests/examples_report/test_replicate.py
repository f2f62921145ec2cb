from __future__ import annotations

import html
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from benchmarks.replicate import main as read_replication

from examples.report import STUDIES, Finding, Study, replicate
from examples.report.studies import FirstLatents, NeuronSimulators, SameNeuron, SparseDecoders
from sparsedict.analysis import ratings
from sparsedict.analysis.ratings import Rating, Ratings

from ._experiment import experiment_of, setting_of

pytestmark = pytest.mark.filterwarnings("ignore:Dictionary .* The target of TargetL0")  # runs of eight steps

GALLERY = Path(__file__).parents[2] / "examples" / "report" / "gallery"
SOME = (NeuronSimulators(), SameNeuron())


def plain(text: str) -> str:
    """Returns text without the spaces that the page adds or protects from line breaks."""
    return text.replace("\N{NO-BREAK SPACE}", " ").replace(" %", "%")


def page_text(folder: Path) -> str:
    return plain((folder / "index.html").read_text(encoding="utf-8"))


def test_every_study_leaves_numbers_figures_and_its_place_on_the_page(folder: Path) -> None:
    page = page_text(folder)
    for study in STUDIES:
        numbers = json.loads((folder / "numbers" / f"{study.name}.json").read_text(encoding="utf-8"))
        found = study.found(numbers)
        assert plain(html.escape(study.title)) in page
        assert plain(html.escape(study.claim)) in page
        # What the page says is what the numbers say.
        assert plain(html.escape(found.summary)) in page
        for clause in found.clauses:
            assert f"<td>{plain(html.escape(clause.clause.says))}</td>" in page
            assert f"<td>{plain(html.escape(clause.here))}</td>" in page
            assert f"<td>{plain(html.escape(clause.result))}</td>" in page
        assert len({row.what for row in found.rows}) == len(found.rows)
        for row in found.rows:
            assert f"<td>{plain(html.escape(row.here))}</td>" in page
        for name, drawing in found.drawings.items():
            assert (folder / "figures" / f"{name}.png").is_file()
            assert (folder / "figures" / f"{name}.svg").is_file()
            assert plain(html.escape(drawing.caption)) in page


def test_the_main_coefficient_may_be_the_lowest(folder: Path) -> None:
    numbers = json.loads((folder / "numbers" / "same-neuron.json").read_text(encoding="utf-8"))
    numbers["coefficients"].pop("lowest", None)
    found = SameNeuron().found(numbers)
    assert "lowest coefficient" not in found.summary
    assert len({row.what for row in found.rows}) == len(found.rows)


def test_the_page_needs_nothing_but_the_folder(folder: Path) -> None:
    page = page_text(folder)
    assert "<script" not in page
    for address in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert address.startswith(("data:", "#", "https://www.lesswrong.com/")) or (folder / address).is_file(), address
    assert (folder / "latents" / "index.html").is_file()


def test_the_page_cites_the_report(folder: Path) -> None:
    page = page_text(folder)
    assert "slavachalnev, Sparse MLP Distillation, LessWrong, 15 January 2024" in page
    assert 'href="https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation"' in page


def test_the_page_shows_the_settings_of_the_run(folder: Path) -> None:
    page = page_text(folder)
    for name, value in setting_of().to_dict().items():
        assert f"<dt>{name.replace('_', ' ')}</dt>" in page, name
        if isinstance(value, int):
            assert f"<dd>{value:,}</dd>" in page
    assert "<dd>a small one</dd>" in page


def test_a_stopped_run_measures_only_the_missing_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replicate(experiment_of(), tmp_path, studies=SOME[:1], progress=False)
    assert "pending" not in page_text(tmp_path)
    measured: list[str] = []
    measure = SameNeuron.measure

    def noted(self: Study, experiment: object) -> dict:
        measured.append(self.name)
        return measure(self, experiment)  # pyright: ignore[reportArgumentType]

    for study in SOME:
        monkeypatch.setattr(type(study), "measure", noted)
    found = replicate(experiment_of(), tmp_path, studies=SOME, progress=False)
    assert measured == ["same-neuron"]
    assert list(found) == ["neuron-simulators", "same-neuron"]


def test_the_page_is_there_as_soon_as_there_is_one_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(SameNeuron, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        replicate(experiment_of(), tmp_path, studies=SOME, progress=False)
    assert "pending" in page_text(tmp_path)


def test_the_time_of_a_study_that_was_stopped_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = NeuronSimulators.measure

    def stop(*_: object) -> dict:
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(NeuronSimulators, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        replicate(experiment_of(), tmp_path, studies=SOME[:1], progress=False)
    first = json.loads((tmp_path / "run.json").read_text())["seconds"]["neuron-simulators"]
    assert first >= 0.2
    monkeypatch.setattr(NeuronSimulators, "measure", measure)
    replicate(experiment_of(), tmp_path, studies=SOME[:1], progress=False)
    assert json.loads((tmp_path / "run.json").read_text())["seconds"]["neuron-simulators"] >= first


def test_another_seed_changes_the_numbers(folder: Path, tmp_path: Path) -> None:
    replicate(experiment_of(seed=5), tmp_path, studies=SOME[:1], progress=False)
    name = "numbers/neuron-simulators.json"
    assert (tmp_path / name).read_text() != (folder / name).read_text()


def test_the_same_seed_gives_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    replicate(experiment_of(), tmp_path, studies=[SparseDecoders()], progress=False)
    name = "numbers/sparse-decoders.json"
    assert (tmp_path / name).read_text() == (folder / name).read_text()


def test_rejects_the_folder_of_another_run_unless_forced(tmp_path: Path) -> None:
    replicate(experiment_of(), tmp_path, studies=SOME[:1], progress=False)
    with pytest.raises(FileExistsError, match="holds a run with another seed"):
        replicate(experiment_of(seed=1), tmp_path, studies=SOME[:1], progress=False)
    replicate(experiment_of(seed=1), tmp_path, studies=SOME[:1], force=True, progress=False)
    assert json.loads((tmp_path / "run.json").read_text())["facts"]["seed"] == 1


def test_rejects_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(FileExistsError, match="contains other files"):
        replicate(experiment_of(), tmp_path, studies=SOME, progress=False)


def test_every_study_has_a_script_in_the_gallery() -> None:
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in GALLERY.glob("plot_*.py"))
    for study in STUDIES:
        assert f"report.{type(study).__name__}()" in scripts
    assert len({study.name for study in STUDIES}) == len(STUDIES)


def test_scripts_of_the_gallery_draw_the_available_results(folder: Path) -> None:
    for path in GALLERY.glob("plot_*.py"):
        script = path.read_text(encoding="utf-8")
        study = next(study for study in STUDIES if f"report.{type(study).__name__}()" in script)
        numbers = json.loads((folder / "numbers" / f"{study.name}.json").read_text(encoding="utf-8"))
        drawn = re.findall(r'found\.draw\("([^"]+)"\)', script)
        assert drawn, path.name
        # The small model is untrained: its MLPs don't lower the loss, so that there is no share to draw.
        missing = set(drawn) - set(study.found(numbers).drawings)
        assert missing <= {"comment-loss-recovered"}, path.name


def test_the_texts_are_those_of_the_latents(folder: Path) -> None:
    numbers = json.loads((folder / "numbers" / "first-latents.json").read_text())
    assert len(numbers["of"]["student"]) == 12
    assert isinstance(FirstLatents().found(numbers), Finding)
    for latent in numbers["of"]["student"]:
        for example in latent["examples"]:
            assert (
                example["activations"][example["peak"]] == max(e for e in example["activations"]) or latent["max"] > 0
            )


FILE = "ratings-anna.json"


def test_ratings_that_people_add_come_onto_the_page_and_into_the_json(tmp_path: Path) -> None:
    replicate(experiment_of(), tmp_path, studies=[FirstLatents()], progress=False)
    assert "not rated" in page_text(tmp_path)
    assert (tmp_path / "first-latents-rate.html").is_file()
    ratings.write(
        Ratings(tuple(Rating("anna", "student", i, grade) for i, grade in enumerate((4, 2)))), tmp_path / FILE
    )
    replicate(experiment_of(), tmp_path, studies=[FirstLatents()], progress=False)
    assert "<td>3.000 ± 1.960 of 2</td>" in page_text(tmp_path)
    numbers = json.loads((tmp_path / "numbers" / "first-latents.json").read_text())
    assert [row["grade"] for row in numbers["given"][FILE]["ratings"]] == [4, 2]
    replicate(experiment_of(seed=1), tmp_path, studies=[FirstLatents()], force=True, progress=False)
    assert "not rated" in page_text(tmp_path)
    assert (tmp_path / f"earlier-{FILE}").is_file()
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ValueError, match=r"`ratings-anna.json` must be JSON"):
        replicate(experiment_of(seed=1), tmp_path, studies=[FirstLatents()], progress=False)


def test_the_page_keeps_earlier_measurements(tmp_path: Path) -> None:
    replicate(experiment_of(), tmp_path, studies=SOME[:1], progress=False)
    found = replicate(experiment_of(), tmp_path, studies=SOME[1:], progress=False)
    assert list(found) == ["neuron-simulators", "same-neuron"]
    page = page_text(tmp_path)
    for study in SOME:
        assert plain(html.escape(study.claim)) in page


def test_the_benchmarks_read_an_unfinished_replication(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    for study in STUDIES[2:]:
        (copy / "numbers" / f"{study.name}.json").unlink()
    read_replication([str(copy), "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "for 2 of 17 studies" in text
    document = json.loads((tmp_path / "replicate.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert set(document["studies"]) == {study.name for study in STUDIES[:2]}
    for study in document["studies"].values():
        assert all(len(clause) == 5 for clause in study["clauses"])
        assert study["verdict"] in text
    for study in STUDIES[:2]:
        (copy / "numbers" / f"{study.name}.json").unlink()
    with pytest.raises(SystemExit, match="contains no results of a study"):
        read_replication([str(copy), "--out", str(tmp_path)])
