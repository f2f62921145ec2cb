"""The documentation's code runs: the blocks of each page in order, in one namespace."""

from __future__ import annotations

import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import sparsedict as sd

pytestmark = pytest.mark.as_installed  # as users run it, whose errors these are

REPOSITORY = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Its code needs the hub: a test of its own runs it on a model made from a configuration.
ON_THE_HUB = REPOSITORY / "docs" / "gpt2-pythia.md"
PAGES = [
    page
    for page in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
    if "_build" not in page.parts and page != ON_THE_HUB and BLOCK.search(page.read_text(encoding="utf-8"))
]
ROOMS = [room.name for room in pkgutil.iter_modules(sd.__path__) if room.name != "cli" and room.name[0] != "_"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_code(page.read_text(encoding="utf-8"), page, tmp_path, monkeypatch)


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
    small = text.replace("n_tokens = 100_000_000", "n_tokens = 8_192").replace(".skip(1_000_000)", ".skip(50)")
    assert small.count("8_192") == small.count(".skip(50)") == 1
    run_code(small, ON_THE_HUB, tmp_path, monkeypatch)
    assert sd.load(tmp_path / "gpt2-layer 5").n_latents == 8 * 64


def run_code(text: str, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A module of its own, for dataclasses look theirs up, and saved dictionaries name it as the owner of their parts.
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in BLOCK.finditer(text):
        first_line = text.count("\n", 0, block.start(1))
        code = compile("\n" * first_line + block.group(1), str(page), "exec", dont_inherit=True)
        exec(code, vars(module))


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_place_in_the_reference(room: str) -> None:
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs" / "api").glob("*.md"))
    assert re.search(rf"automodule:: sparsedict\.{room}$", reference, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in sd.__all__ if not name.islower()])
def test_the_glossary_of_names_is_complete(name: str) -> None:
    index = (REPOSITORY / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    assert re.search(rf"^   ~sparsedict\.[a-z_.]+\.{name}$", index, re.MULTILINE), f"add {name} to docs/api/index.md"
