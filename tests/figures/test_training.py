from __future__ import annotations

import pytest

from sparsedict.figures import training_curves
from sparsedict.figures._training import LABELS
from sparsedict.training import History, Record

from ._looks import check_looks, legend_of


def history(n: int) -> History:
    records = [Record(i, i * 1000, 2.0, 1.0, {}, 0.5 / i, 32.0, 0.1, 1e-3, 1.0 * i) for i in range(1, n + 1)]
    return History(n * 1000, n, float(n), records)


@pytest.mark.parametrize("column", LABELS)
def test_looks(column: str) -> None:
    ax = training_curves({"a": history(5), "b": history(9)}, column)
    check_looks(ax)
    assert legend_of(ax) == ["a", "b"]
    assert ax.lines[1].get_xdata()[-1] == 9000
    assert ax.get_xlabel() == "training tokens"


@pytest.mark.parametrize(("n", "unit"), [(9, ""), (10, " (thousands)"), (1000, " (millions)")])
def test_the_axis_has_a_unit_that_suits_the_run(n: int, unit: str) -> None:
    assert training_curves(history(n)).get_xlabel() == f"training tokens{unit}"


def test_one_history_needs_no_legend() -> None:
    assert training_curves(history(3)).get_legend() is None


def test_unrecorded_quantities_raise() -> None:
    with pytest.raises(ValueError, match=r"`histories` must have at least one record"):
        training_curves({"a": History()})
    with pytest.raises(ValueError, match=r"`column` must be one of"):
        training_curves(history(2), "accuracy")
