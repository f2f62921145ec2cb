"""The documentation's code runs: the blocks of each page in order, in one namespace."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import sparsedict as sd
from shorter import shorter

pytestmark = pytest.mark.as_installed  # as users run it, whose errors these are

REPOSITORY = Path(__file__).parents[1]


def run_path_as_module(path: Path) -> ModuleType:
    """Imports a script that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


refresh = run_path_as_module(REPOSITORY / "docs" / "refresh.py")
# Its code needs the hub: a test of its own runs it on a model made from a configuration.
ON_THE_HUB = REPOSITORY / "docs" / "gpt2-pythia.md"
PAGES = [
    page
    for page in sorted((REPOSITORY / "docs").rglob("*.md"))
    if "_build" not in page.parts and page != ON_THE_HUB and any(refresh.blocks(page.read_text(encoding="utf-8")))
]
ROOMS = [room.name for room in pkgutil.iter_modules(sd.__path__) if room.name != "cli" and room.name[0] != "_"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text(encoding="utf-8")
    if "load_bridge" in text:
        pytest.importorskip("transformer_lens")
    run_code(shorter(text), page, tmp_path, monkeypatch)


def test_the_code_for_models_of_the_hub_runs_on_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import transformers

    torch.manual_seed(0)
    tokenizer = sd.zoo.load_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=12, n_head=2, n_positions=128, bos_token_id=0, eos_token_id=0
    )
    texts = datasets.Dataset.from_dict({"text": [f"def f{i}(x):\n    return x + {i}\n" * 30 for i in range(100)]})

    def returns(value: object) -> object:
        return lambda *_, **__: value

    model = transformers.GPT2LMHeadModel(config)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", returns(model))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", returns(tokenizer))
    monkeypatch.setattr(datasets, "load_dataset", returns(texts.to_iterable_dataset()))
    text = ON_THE_HUB.read_text(encoding="utf-8")
    small = text.replace("n_tokens = 100_000_000", "n_tokens = 4_096").replace(".skip(1_000_000)", ".skip(50)")
    # Logits of 256 rows over the whole vocabulary take most of the time.
    small = small.replace("rows[:256]", "rows[:4]")
    assert small.count("4_096") == small.count(".skip(50)") == small.count("rows[:4]") == 1
    run_code(small, ON_THE_HUB, tmp_path, monkeypatch)
    assert sd.load(tmp_path / "gpt2-layer 5").n_latents == 8 * 64


def run_code(text: str, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs the code of a page and compares the form of each output with the output that the page shows."""
    monkeypatch.chdir(tmp_path)
    # A module of its own, for dataclasses look theirs up, and saved dictionaries name it as the owner of their parts.
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    blocks = list(refresh.blocks(text))
    printed = refresh.run(blocks, module, str(page))
    for block, output in zip(blocks, printed, strict=True):
        if block.shown is not None:
            assert without_numbers(output) == without_numbers(block.shown), "run docs/refresh.py output PAGE"
    return printed


def without_numbers(text: str) -> list[str]:
    return [re.sub(r"[ \d.,%-]+", "#", line) for line in text.splitlines()]


def test_the_code_of_the_readme_gives_a_good_transcoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = REPOSITORY / "README.md"
    printed = "".join(run_code(readme.read_text(encoding="utf-8"), readme, tmp_path, monkeypatch))
    value = {name: float(number) for name, number in re.findall(r"^(\w[\w, ]*?) {2,}([\d.]+)", printed, re.MULTILINE)}
    assert value["FVU"] < 0.12
    assert value["loss recovered, zero"] > 0.95
    assert value["L0"] == pytest.approx(31, abs=1.5)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_place_in_the_reference(room: str) -> None:
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs" / "api").glob("*.md"))
    assert re.search(rf"automodule:: sparsedict\.{room}$", reference, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in sd.__all__ if not name.islower()])
def test_the_glossary_of_names_is_complete(name: str) -> None:
    index = (REPOSITORY / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    assert re.search(rf"^   ~sparsedict\.[a-z_.]+\.{name}$", index, re.MULTILINE), f"add {name} to docs/api/index.md"
