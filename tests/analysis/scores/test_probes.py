"""Sparse probes and the labels that they predict."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from sparsedict.analysis.scores import (
    ClassAt,
    Labels,
    PositionInSequence,
    PythonNode,
    TokenLatents,
    TokensAt,
    sparse_probes,
    stability,
)
from sparsedict.analysis.scores._python_nodes import token_nodes

from ._planted import planted, states, words

TOKENS = words(64, 48)
LANGUAGES = Labels((TOKENS % 3).clone(), ["C", "Go", "Lisp"].__getitem__, "the language is {}")


def text() -> TokenLatents:
    """Latents 3, 4 and 5 fire on the languages, the others at random."""
    random = torch.rand(64, 48, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    return planted(torch.cat([random, (TOKENS % 3).unsqueeze(-1) == torch.arange(3)], -1), TOKENS)


def test_planted_latents_are_chosen_and_predict_their_label() -> None:
    pytest.importorskip("sklearn")
    found = sparse_probes(text(), LANGUAGES, k=(1, 2), neurons=text().shuffled(), dense=states)
    expected = {f"the language is {name}": 3 + i for i, name in enumerate(["C", "Go", "Lisp"])}
    assert {label: int(chosen) for label, chosen in zip(found.labels, found.chosen[:, 0], strict=True)} == expected
    assert (found.accuracy["latents, k=1"] == 1).all()
    assert found.mean("neurons, k=1").value == pytest.approx(0.5, abs=0.06)
    assert found.mean("dense").value > 0.7
    assert (found.n_test >= 500).all()
    low, high = found.interval("neurons, k=2")
    assert ((low < 0.53) & (high > 0.47)).all()


def test_shuffled_latents_are_at_chance() -> None:
    pytest.importorskip("sklearn")
    found = sparse_probes(text().shuffled(), LANGUAGES, k=(1, 5))
    for probe in found.accuracy:
        assert found.mean(probe).value == pytest.approx(0.5, abs=0.04)


def test_probes_are_deterministic_given_a_seed() -> None:
    pytest.importorskip("sklearn")
    one, two = (sparse_probes(text(), LANGUAGES, k=(2,), n_examples=100, seed=3) for _ in range(2))
    assert one.to_dict() == two.to_dict()
    assert len(repr(one)) < 120
    with pytest.raises(ValueError, match="`probe` must be one of 'latents, k=2', got 'latents'"):
        one.mean("latents")


@pytest.mark.parametrize("labelling", [ClassAt(), TokensAt((1,)), PositionInSequence()])
def test_free_labels(labelling: ClassAt | TokensAt | PositionInSequence) -> None:
    pytest.importorskip("sklearn")
    found = sparse_probes(text(), labelling, k=(1,), max_labels=3, n_examples=100)
    assert len(found.labels) == 3


def test_bad_arguments_raise() -> None:
    pytest.importorskip("sklearn")
    own = text()
    with pytest.raises(ValueError, match="`k` must be at most the number of latents, 6, got 7"):
        sparse_probes(own, LANGUAGES, k=(7,))
    with pytest.raises(ValueError, match="`k` must be numbers of latents"):
        sparse_probes(own, LANGUAGES, k=())
    with pytest.raises(ValueError, match="`neurons` must be recorded on the tokens of `text`"):
        sparse_probes(own, LANGUAGES, neurons=replace(own, tokens=own.tokens + 1))
    rare = Labels(torch.full_like(TOKENS, -1), str, "{}")
    with pytest.raises(ValueError, match="`labelling` must have a label on at least 20 tokens"):
        sparse_probes(own, rare)
    with pytest.raises(ValueError, match=r"`text\.strings` must be passed"):
        sparse_probes(replace(own, strings=None), ClassAt())


@pytest.mark.parametrize(("module", "package"), [("sklearn.linear_model", "scikit-learn"), ("scipy.optimize", "scipy")])
def test_missing_packages_name_the_extra(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {package}: pip install 'sparsedict\[scores\]'"):
        _ = sparse_probes(text(), LANGUAGES) if package == "scikit-learn" else stability(torch.eye(3), torch.eye(3))


@pytest.mark.parametrize(
    ("strings", "nodes"),
    [
        (["def", " f", "(", "x", "):", "\n ", " return", " x", "\n"],
         ["FunctionDef", "FunctionDef", "FunctionDef", "arg", "FunctionDef", None, "Return", "Name", None]),
        (["x", ".", "y", " +", " 1"], ["Name", "Attribute", "Attribute", "BinOp", "Constant"]),
        (["a", " #", " b", "\n", "'c#'"], ["Name", "Comment", "Comment", None, "Constant"]),
        (["'é", "ü'", " +", " z"], ["Constant", "Constant", "BinOp", "Name"]),
        (["x", "\r\n", "y"], ["Name", None, "Name"]),
        (["x = 1\n", "def", " f", "(:\n"], ["Name", None, None, None]),
        (["x = 1\n", "y = [1,\n", "  2,\n"], ["Name", None, None]),
        (["(", "("], [None, None]),
        ([], []),
    ],
)  # fmt: skip
def test_nodes_of_tokens(strings: list[str], nodes: list[str | None]) -> None:
    assert token_nodes(strings) == nodes


def test_modules_go_on_over_sequences_and_end_at_separators() -> None:
    strings = ["<s>", "def f(", "x):\n", "  return x\n", "y", " = 1\n"]
    tokens = torch.tensor([[0, 1, 2], [0, 3, 0], [0, 4, 5]])
    own = TokenLatents.from_dense(
        torch.ones(3, 3, 1), tokens, kept=tokens != 0, strings=lambda ids: [strings[i] for i in ids]
    )
    labels = PythonNode()(own)
    assert labels is not None
    names = [[labels.name(value) if value >= 0 else None for value in row] for row in labels.ids.tolist()]
    assert names == [
        [None, "FunctionDef", "arg"],
        [None, "Return", None],
        [None, "Name", "Assign"],
    ]
    assert PythonNode()(replace(own, strings=None)) is None


def test_stability_compares_encoders_too() -> None:
    pytest.importorskip("scipy")
    rows = torch.randn(20, 30)
    same = stability((rows, rows), (rows, rows))
    assert same.value.tolist() == [1.0] * 20
    half = stability((rows, rows), (-rows, rows))
    assert half.columns["cosine"].max() < 0.7
    assert half.mean.value == 0
    two = stability(rows, [rows, -rows])
    assert two.value.tolist() == [0.5] * 20
    few = stability(rows, rows[:5])
    assert few.mean.value == 0.25
    assert (few.columns["partner"][:5] == torch.arange(5)).all()


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([], "`others` must hold at least one dictionary"),
        (torch.randn(3, 5), "`others` must have decoder rows of the same width as `dictionary`, 4, got 5"),
        ([torch.randn(3, 4), torch.randn(3, 5)], r"`others\[1\]` must have decoder rows"),
    ],
)
def test_bad_others_raise(others: object, message: str) -> None:
    pytest.importorskip("scipy")
    with pytest.raises(ValueError, match=message):
        stability(torch.randn(3, 4), others)
