"""Every test runs seeded, and checks the types and shapes in the library's signatures."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import settings

import sampled_checks
from rendering import empty_images

if not torch.cuda.is_available():
    # Triton reads this when kernels are first imported: they run in its interpreter then.
    os.environ["TRITON_INTERPRET"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background deaf to Ctrl-C, and the tests of Ctrl-C with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs that tests start run without the checks, as they do for users.
sampled_checks.install()
os.environ["SPARSEDICT_CHECK_TYPES"] = "1"
import sparsedict  # noqa: E402

del os.environ["SPARSEDICT_CHECK_TYPES"]
# Warnings name the first line outside of the library, which isn't that of the check.
sparsedict.checks.INTERNAL.add(sampled_checks.__name__)

# The same examples in every run, and no deadline: a busy machine is not an error of the library.
settings.register_profile("repository", max_examples=40, derandomize=True, deadline=None)
settings.load_profile("repository")


SLOW = (
    "activations/test_gated.py::test_fit_trains",
    "activations/test_jumprelu.py::test_the_penalty_moves",
    "activations/test_topk.py::test_a_short_run",
    "activations/test_topk.py::test_data_without_variance",
    "analysis/diagnosis/test_diagnose.py::test_following_the_advice",
    "analysis/ratings/test_statistics.py",
    "analysis/scores/test_language_model.py",
    "analysis/scores/test_rules.py",
    "analysis/test_calibrate.py",
    "analysis/test_collect.py",
    "analysis/test_evaluate.py::test_embedded",
    "analysis/test_evaluate_sites.py",
    "analysis/test_loss_recovered.py",
    "analysis/test_scoring.py",
    "analysis/test_top_examples.py::test_examples_are_those_of_all_latents",
    "analysis/test_truth_benchmarks.py",
    "circuits/test_attribute.py",
    "circuits/test_families.py",
    "circuits/test_frozen.py",
    "circuits/test_kinds.py",
    "circuits/test_known_circuits.py",
    "cli/test_data.py",
    "cli/test_demo.py",
    "cli/test_main.py",
    "cli/test_pages.py",
    "cli/test_rate.py",
    "cli/test_trace.py",
    "cli/test_train.py",
    "data/test_forms.py",
    "data/test_store.py",
    "data/test_stream.py",
    "data/test_synthetic_parts.py::test_a_run_on_a_stream_resumes",
    "dictionaries/test_contract.py::test_triton",
    "dictionaries/test_cross_layer.py",
    "dictionaries/test_crosscoder.py",
    "dictionaries/test_neuron_start.py",
    "dictionaries/test_searched_step.py",
    "examples_report/",
    "figures/test_curves.py",
    "figures/test_firing.py",
    "figures/test_pairs.py",
    "figures/test_shares.py",
    "figures/test_similarity.py",
    "figures/test_training.py",
    "formats/test_cross_layer_files.py",
    "formats/test_hostile.py",
    "formats/test_lens_names.py",
    "hub/test_push.py",
    "hub/test_snapshot.py",
    "kernels/test_backends.py",
    "losses/test_end_to_end.py",
    "losses/test_nested.py::test_the_first_latents",
    "norms/test_measured_norm.py",
    "outside/",
    "pages/browser/",
    "pages/exports/",
    "pages/rating/",
    "pages/test_earlier.py",
    "parallel/test_kills.py",
    "penalties/test_annealed_lp.py::test_it_trains",
    "penalties/test_auxk.py",
    "penalties/test_counts.py::test_a_resumed_run",
    "penalties/test_counts.py::test_the_target",
    "penalties/test_frequency.py::test_it_lowers",
    "penalties/test_pre_activation.py",
    "sharding/",
    "sites/test_calls.py",
    "sites/test_checkpointing.py",
    "sites/test_families.py",
    "sites/test_site.py::test_a_real",
    "sites/test_site.py::test_padding_is_given",
    "sites/test_site.py::test_tokens_are_known_when_transformer_lens",
    "sites/test_sites.py::test_layers_that_are_recomputed",
    "sites/test_suggestions.py",
    "sites/test_tokens.py",
    "storage/test_kill.py",
    "storage/test_lock.py",
    "studies/test_decompose.py",
    "studies/test_decomposition.py",
    "studies/test_recipe.py::test_the_default_recipe",
    "studies/test_recipe.py::test_the_defaults_suit_every_activation",
    "test_benchmarks.py",
    "test_docs.py::test_the_code",
    "test_doctests.py",
    "test_examples.py",
    "test_import.py::test_an_environment_variable",
    "test_notebooks.py",
    "test_project.py::test_the_wheel",
    "test_torch_state.py",
    "training/test_checkpoints.py",
    "training/test_divergence.py::test_divergence_gives",
    "training/test_fit.py",
    "training/test_fit_many.py::test_a_sweep",
    "training/test_interrupt.py",
    "training/test_lazy_adam.py::test_a_seldom_gradient",
    "training/test_lazy_adam.py::test_a_stopped_run",
    "training/test_resample.py",
    "training/test_resume.py",
    "training/test_seeds.py",
    "training/test_trainer.py",
    "training/test_units.py",
    "version_0_1/",
    "zoo/test_zoo.py::test_bridge_gives",
    "zoo/test_zoo.py::test_model_",
    "zoo/test_zoo.py::test_the_script",
)
"""Beginnings of the names of tests that ``python -m tests --fast`` leaves out."""

TOGETHER = ("examples_report/", "pages/", "studies/")
"""Folders whose files share fixtures that take seconds."""

TESTS = Path(__file__).parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives all files of a folder of `TOGETHER` to one worker, so that their fixtures are made once."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = nodeid.removeprefix("tests/")
            return next((folder for folder in TOGETHER if name.startswith(folder)), super()._split_scope(nodeid))

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    # A full collection takes a third of a second with all imported packages, unless it leaves their objects out.
    gc.collect()
    gc.freeze()
    # Reference counts free nearly all objects of the tests: collections every 700 objects take a tenth of the time.
    gc.set_threshold(20_000, 20, 20)


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "check types and shapes of all calls, not only of a sample"
    parser.addoption("--check-every-call", action="store_true", help=text)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # Importing a file takes time too, so files with slow tests only aren't collected if none of them will run.
    if config.getoption("markexpr") != "not slow" or not collection_path.is_relative_to(TESTS):
        return None
    path = collection_path.relative_to(TESTS).as_posix()
    return True if f"{path}/".startswith(tuple(name for name in SLOW if "::" not in name)) else None


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--check-every-call"):
        sampled_checks.check_every_call()
    config.addinivalue_line(
        "markers",
        "as_installed: runs without the runtime type checks, as the library does for users; for errors of its own",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # Ranks are started by the first test that uses their results.
        if item.nodeid.removeprefix("tests/").startswith(SLOW) or "ranks" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    # The files that take longest begin first, so that the workers of pytest-xdist end at about the same time.
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)
    # Workers of pytest-xdist must collect equal names, so no name may hold the address of an object.
    addressed = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if addressed:
        raise pytest.UsageError(f"give `ids` to {addressed[0]}, whose name changes from run to run")


@pytest.fixture(autouse=True)
def _type_checks(request: pytest.FixtureRequest) -> Iterator[None]:
    sampled_checks.start_test(request.node.nodeid.partition("[")[0])
    off = request.node.get_closest_marker("as_installed") is not None
    jaxtyping.config.update("jaxtyping_disable", off)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _seed() -> None:
    # `torch.manual_seed` also records a traceback for each accelerator, which takes longer than many a test.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(scope="session")
def interpreter() -> Iterator[None]:
    """Triton's interpreter in two thirds of the time.

    The interpreter replaces the functions of Triton's language at each call of a function within a kernel, and leaves
    them replaced. Here it does so at the first call of each module.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    if torch.cuda.is_available():
        yield
        return
    replaced: set[int] = set()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        names = self.fn.__globals__
        if id(names) not in replaced:
            replaced.add(id(names))
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        yield


@pytest.fixture
def no_rendering() -> Iterator[None]:
    """Figures are drawn, but written as empty images."""
    with empty_images():
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
