from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from examples.report import (
    QUICK,
    REPORT,
    SKETCH,
    STANDARD,
    Above,
    Clause,
    Compared,
    DictionarySpec,
    Drawing,
    Finding,
    Quantity,
    Setting,
    Training,
    measured,
)
from examples.report.dictionary_spec import draw_
from examples.report.replication import _typeset
from examples.report.study import plain
from sparsedict import L1, MaxNorm, ReLU, SparseDistiller, Trainee
from sparsedict.figures import Curve, curves
from sparsedict.training import LazyAdam

from ._experiment import experiment_of, setting_of


def test_numbers_become_json_values() -> None:
    numbers = {1: float("nan"), "t": torch.tensor([1.0, float("inf")]), "f": 0.12345678, "n": (1, None, True, "x")}
    found = plain(numbers)
    assert found == {"1": None, "t": [1.0, None], "f": 0.123457, "n": [1, None, True, "x"]}
    assert plain(found) == found


def test_a_finding_reads_as_a_table_and_draws_by_name() -> None:
    drawing = Drawing(lambda: curves({"a": Curve([1, 2], [3, 4])}, "x", "y"), "a caption")
    clause = Clause("it is large", Quantity("x"), Above(1.0), "3.3").judge(measured([{"x": 2.0}, {"x": 2.0}]))
    found = Finding("It was so.", (clause,), (Compared("error", "3.3", "1.2"),), {"one": drawing})
    assert str(found).splitlines() == [
        "seen: It was so.",
        "                            here        rule  result",
        "it is large  2.00 (2.00 to 2.00)  above 1.00   holds",
        "       the report  here",
        "error         3.3   1.2",
    ]
    assert found.draw("one").get_xlabel() == "x"
    with pytest.raises(ValueError, match="`name` must be one of"):
        found.draw("two")


@pytest.mark.parametrize("setting", [STANDARD, QUICK, SKETCH, REPORT])
def test_presets_can_be_printed_whole(setting: Setting) -> None:
    told = setting.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["report: n_tokens"] == setting.report.n_tokens


def test_numbers_and_units_do_not_break() -> None:
    text = "23.2% ± 5.2 %, above 0.2, 0.5 to 1.0"
    assert _typeset(text).replace("\N{NO-BREAK SPACE}", "~") == "23.2~%~±~5.2~%, above~0.2, 0.5 to 1.0"


def test_the_reports_preset_holds_the_reports_values() -> None:
    training = REPORT.report
    assert (training.n_tokens, training.batch_size, training.lr) == (4_000_000_000, 1024, 5e-5)
    optimizer = training.optimizer
    assert isinstance(optimizer, partial)
    assert optimizer.keywords == {"betas": (0.9, 0.99), "weight_decay": 1e-4, "fused": True}
    assert training.start == "random"
    assert training.schedule.factor(10**6, 10**6) == pytest.approx(0.01)
    assert REPORT.coefficient == pytest.approx(0.2048)
    assert REPORT.expansion * 4096 == 16_384


@pytest.mark.as_installed
def test_values_that_make_no_sweep_raise() -> None:
    with pytest.raises(ValueError, match="`coefficients` must be two or more in ascending order"):
        setting_of(coefficients=(1.0, 0.1))
    with pytest.raises(ValueError, match="`n_held_out`"):
        setting_of(n_held_out=0)


def test_orders_that_differ_have_other_names() -> None:
    training = SKETCH.report
    specs = {
        DictionarySpec("mlp 0", 12, training),
        DictionarySpec("mlp 1", 12, training),
        DictionarySpec("mlp 0", 12, training, (L1(0.1),)),
        DictionarySpec("mlp 0", 12, training, kind="autoencoder"),
        DictionarySpec("mlp 0", 12, training, warm=DictionarySpec("mlp 0", 12, training)),
        DictionarySpec("mlp 0", 12, training, repeat=1),
    }
    assert len({spec.slug for spec in specs}) == len(specs) == 6
    assert DictionarySpec("mlp 0", 12, training).slug == DictionarySpec("mlp 0", 12, training, activation=ReLU()).slug


def test_the_reports_start_is_uniform_with_unit_decoder_rows() -> None:
    experiment = experiment_of()
    spec = DictionarySpec("mlp 1", 600, REPORT.report, decoder_norm=MaxNorm(1.0))
    dictionary = spec.make(experiment.sites["mlp 1"], seed=0)
    bound = (6 / 600) ** 0.5
    assert dictionary.encoder.abs().max() <= bound
    assert dictionary.encoder.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert torch.allclose(dictionary.decoder.norm(dim=1), torch.ones(600))
    assert not dictionary.is_untouched
    before = dictionary.encoder.clone()
    draw_(dictionary, seed=1)
    assert not torch.equal(before, dictionary.encoder)


def test_coefficients_keep_the_balance_of_error_and_penalty() -> None:
    larger = SKETCH.scaled(4.0)
    # Of outputs four times as large, L1 grows fourfold and the error sixteenfold; a root doubles.
    assert larger.coefficient == pytest.approx(4 * SKETCH.coefficient)
    assert larger.coefficients == pytest.approx([4 * c for c in SKETCH.coefficients])
    assert larger.autoencoder_coefficient == pytest.approx(8 * SKETCH.autoencoder_coefficient)
    assert larger.report == SKETCH.report


def test_the_options_of_a_training_are_those_of_a_trainee() -> None:
    student = SparseDistiller(4, 4, 8, activation=ReLU(), decoder_norm=MaxNorm(1.0))
    training = Training(100, 10, 0.1, optimizer=partial(LazyAdam, betas=(0.8, 0.9)))
    optimizer = Trainee(student, **training.options).make_optimizer()
    assert isinstance(optimizer, LazyAdam)
    assert (optimizer.defaults["betas"], optimizer.defaults["lr"]) == ((0.8, 0.9), 0.1)
    with pytest.raises(ValueError, match="`lr` must"):
        Training(100, 10, 0.0)


def test_a_page_shows_optimisers_by_name() -> None:
    shown = STANDARD.to_dict()
    assert shown["report: optimizer"] == "Adam(betas=(0.9, 0.99), fused=True)"
    assert (shown["modern: optimizer"], shown["wide: optimizer"]) == ("LazyAdam", "Adam")
