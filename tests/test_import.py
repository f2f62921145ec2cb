from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import sparsedict

EXTRAS = {
    "transformer_lens",
    "transformers",
    "datasets",
    "matplotlib",
    "wandb",
    "tokenizers",
    "huggingface_hub",
    "scipy",
    "sklearn",
}


def test_importing_the_package_imports_no_extra() -> None:
    code = "import json, sys, sparsedict; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(ran.stdout)}
    assert not loaded & EXTRAS
    assert ran.stderr == ""


def test_importing_the_package_does_not_import_torch() -> None:
    code = (
        "import sys, sparsedict; assert 'torch' not in sys.modules; assert sparsedict.__version__; "
        "sparsedict.TopK(3); sparsedict.storage; sparsedict.studies; from sparsedict import *; fit"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("value", "error"), [("1", "TypeCheckError"), ("0", "ValueError")])
def test_an_environment_variable_switches_the_checks_of_shapes_on(value: str, error: str) -> None:
    code = "import torch, sparsedict as sd; sd.ActivationBatch(torch.zeros(4, 2), torch.zeros(3, 2))"
    environment = {**os.environ, "SPARSEDICT_CHECK_TYPES": value}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert f"{error}:" in ran.stderr


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sparsedict' has no attribute 'TopKay'"):
        _ = sparsedict.TopKay  # pyright: ignore[reportAttributeAccessIssue]
    assert {"TopK", "fit", "training", "__version__"} <= set(dir(sparsedict))


def test_public_names_exist_and_are_sorted() -> None:
    assert all(hasattr(sparsedict, name) for name in sparsedict.__all__)
    assert len(set(sparsedict.__all__)) == len(sparsedict.__all__)
    assert list(sparsedict.__all__) == sorted(sparsedict.__all__)


@pytest.mark.parametrize("room", [name for name in sparsedict.__all__ if name.islower()])
def test_public_names_of_rooms_exist(room: str) -> None:
    names = getattr(getattr(sparsedict, room), "__all__", [])
    assert all(hasattr(getattr(sparsedict, room), name) for name in names)


@pytest.mark.parametrize("name", [name for name in sparsedict.__all__ if not name.islower()])
def test_public_names_are_documented(name: str) -> None:
    assert getattr(sparsedict, name).__doc__
