from __future__ import annotations

import json

import pytest

from sparsedict.studies import Inspection, Recipe


def test_settings_fit_into_json_and_parts_read_as_code() -> None:
    settings = json.loads(json.dumps(Recipe().to_dict()))
    assert settings["activation"] == "TopK(k=32)"
    assert settings["penalties"][0].startswith("AuxK(")
    assert set(settings) == set(Recipe.__dataclass_fields__)
    assert set(json.loads(json.dumps(Inspection().to_dict()))) == set(Inspection.__dataclass_fields__)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"batch_size": 0}])
def test_recipe_refuses(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must"):
        Recipe(**wrong)


@pytest.mark.parametrize("wrong", [{"n_firing_tokens": 0}, {"threshold": 2.0}, {"most_frequent": 0.0}, {"n_shown": -1}])
def test_inspection_refuses(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must"):
        Inspection(**wrong)
