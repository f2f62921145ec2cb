"""The caller's PyTorch state doesn't change what the library computes, and is what it was afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsedict as sd
from sparsedict import analysis
from sparsedict.analysis import scores
from sparsedict.data import SyntheticFeatures, as_batches
from sparsedict.torch_state import callers_state, own_state

D, N_LATENTS = 16, 48


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast without cache": lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
    "default dtype": lambda: default_dtype(torch.bfloat16),
}

AT_ONCE = {
    "autocast": ("autocast",),
    "inference": ("autocast without cache", "inference_mode"),
    "defaults": ("no_grad", "default device", "default dtype"),
}
"""All states. Those of a group are restored independently, so a result that depends on one of them still differs."""


def rows(n: int = 600) -> Tensor:
    return SyntheticFeatures(D, 40, 3.0, seed=0).sample(n, 1)[0].outputs


def coder(activation: sd.Activation, **kwargs: Any) -> sd.SparseAutoencoder:
    return sd.SparseAutoencoder(
        D,
        N_LATENTS,
        activation=activation,
        decoder_norm=sd.UnitNorm(),
        generator=torch.Generator("cpu").manual_seed(0),
        device="cpu",
        dtype=torch.float32,
        **kwargs,
    )


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, D)
        self.mlp = nn.Sequential(nn.Linear(D, 2 * D), nn.ReLU(), nn.Linear(2 * D, D))
        self.head = nn.Linear(D, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(x + self.mlp(x))


torch.manual_seed(0)
X, MODEL, IDS, COLUMN = rows(), Model().eval(), torch.randint(20, (8, 12)), torch.randn(600, D)
COSTS = torch.full((N_LATENTS,), 0.1)
PLACES = torch.arange(3), torch.arange(3)
PARITY = scores.Labels(torch.arange(96).view(8, 12) % 2, str, "the number is {}")
TRAINED = coder(sd.ReLU())
sd.fit(TRAINED, X, n_tokens=1200, batch_size=100, progress=False, penalties=[sd.L1(0.1)])


def fitted(activation: sd.Activation, data: Any = X, **kwargs: Any) -> list[Tensor]:
    dictionary = coder(activation)
    history = sd.fit(dictionary, data, n_tokens=1200, progress=False, log_every=4, **kwargs)
    return [torch.tensor(history.column("fvu"), device="cpu", dtype=torch.float64), *dictionary.state_dict().values()]


def of_stream() -> list[Tensor]:
    stream = sd.ActivationStream(sd.Site(MODEL, "mlp"), IDS, batch_size=32)
    served = [batch.outputs for batch in stream]
    return [*served, *fitted(sd.ReLU(), stream)]


def evaluated() -> list[Tensor]:
    result = sd.evaluate(sd.Site(MODEL, "mlp"), TRAINED, IDS)
    assert result.losses is not None
    return [
        torch.tensor(
            [result.fvu, result.l0, result.losses.replaced, result.losses.kl], device="cpu", dtype=torch.float64
        )
    ]


def examined() -> list[Tensor]:
    site = sd.Site(MODEL, "mlp")
    match = analysis.match_neurons(TRAINED, site.neurons)
    folded = site.neurons.fold(X[0], X[1])
    return [
        match.decoder_cosine,
        analysis.match_dictionaries(TRAINED, TRAINED.decoder.detach().flip(0) + COLUMN[:N_LATENTS]).cosine_a,
        analysis.clusters(TRAINED, 0.3).labels,
        analysis.firing_frequencies(TRAINED, X).counts,
        analysis.latent_means(TRAINED, X),
        *(
            example.activations
            for latent in analysis.top_examples(site, TRAINED, IDS, n_examples=2).values()
            for example in latent.examples
        ),
        sd.metrics.correlation(X, COLUMN),
        folded.encoder_bias,
    ]


def calibrated() -> list[Tensor]:
    result = sd.calibrate_threshold(TRAINED, X, l0=3.0)
    numbers = [result.threshold, result.l0_before, result.l0, result.fvu_before, result.fvu]
    return [torch.tensor(numbers, device="cpu", dtype=torch.float64), *result.dictionary.state_dict().values()]


def loaded_in_part() -> list[Tensor]:
    with TemporaryDirectory() as folder:
        TRAINED.save(Path(folder) / "dictionary")
        return [*sd.load(Path(folder) / "dictionary", latents=[5, 1, 2]).state_dict().values()]


def started() -> list[Tensor]:
    dictionary = coder(sd.TopK(4))
    dictionary.initialise_(X, X)
    return [*dictionary.state_dict().values()]


def attributed() -> list[Tensor]:
    graph = sd.circuits.attribute(sd.Site(MODEL, "mlp"), distiller(sd.TopK(4)), IDS[0], targets=[3, 4], check=2)
    assert graph.checked is not None
    return [graph.edges, graph.influence, graph.pruned().values, graph.checked.frozen, graph.checked.unfrozen]


def distiller(activation: sd.Activation) -> sd.SparseDistiller:
    parts: dict[str, Any] = {"activation": activation, "decoder_norm": sd.UnitNorm()}
    seeded = torch.Generator("cpu").manual_seed(0)
    return sd.SparseDistiller(D, D, N_LATENTS, generator=seeded, device="cpu", dtype=torch.float32, **parts)


def scored() -> list[Tensor]:
    site = sd.Site(MODEL, "mlp")
    text = scores.record(site, TRAINED, IDS)
    found = [
        scores.RuleScore(labellings=[scores.TokensAt((-1, 0))])(text),
        scores.IntruderScore(scores.SiteStates(site), n_trials=5)(text.shuffled()),
        scores.ExampleEmbeddingScore(scores.SiteStates(site))(text),
        scores.stability(TRAINED, coder(sd.ReLU())),
        scores.DetectionScore(lambda prompts: ["[1, 2]"] * len(prompts), (None, "a", *[None] * 46))(
            replace(text, strings=lambda ids: [f"t{i}" for i in ids])
        ),
    ]
    probes = scores.sparse_probes(text, PARITY, k=1, max_labels=1, n_examples=4)
    return [
        *text.sequences(torch.tensor([1, 0], device="cpu")).values_at(*PLACES).split(1),
        *probes.accuracy.values(),
    ] + [column for own in found for column in own.per_latent.values()]


def trained_with_new_parts() -> list[Tensor]:
    kinds: dict[str, tuple[sd.SparseDistiller, dict[str, Any]]] = {
        "counts": (distiller(sd.JumpReLU()), {"penalties": [sd.L0(0.01), sd.Frequency(0.1)]}),
        "thresholds": (distiller(sd.JumpReLU(learns="threshold")), {"penalties": [sd.PreActivation(1e-4, 300)]}),
        "power": (distiller(sd.ReLU()), {"penalties": [sd.AnnealedLp(0.1)]}),
        "widths": (distiller(sd.BatchTopK(2.5)), {"loss": sd.Nested((8, 16)), "step_hooks": [sd.AnnealK(8.5)]}),
        "model": (distiller(sd.TopK(4)), {"loss": sd.EndToEnd(sd.Site(MODEL, "mlp"), IDS)}),
    }
    trainees = {name: sd.Trainee(own, **options) for name, (own, options) in kinds.items()}
    sd.fit_many(trainees, (X, COLUMN), n_tokens=600, batch_size=200, progress=False)
    return [value for own, _ in kinds.values() for value in own.state_dict().values()]


TASKS: dict[str, Callable[[], list[Tensor]]] = {
    **{
        f"fit {type(activation).__name__}": lambda activation=activation: fitted(activation, batch_size=100)
        for activation in (sd.ReLU(), sd.GELU(), sd.Gated(), sd.JumpReLU(), sd.TopK(4), sd.BatchTopK(4))
    },
    "fit in bfloat16": lambda: fitted(sd.ReLU(), batch_size=100, autocast=torch.bfloat16),
    "fit with a step hook": lambda: fitted(
        sd.ReLU(), batch_size=100, penalties=[sd.AuxK(4, 300)], step_hooks=[sd.Resample(4, 300)]
    ),
    "fit with a target": lambda: fitted(sd.JumpReLU(), batch_size=100, penalties=[sd.TargetL0(4)]),
    "fit with coefficients": lambda: fitted(sd.ReLU(), batch_size=100, penalties=[sd.L1(COSTS)]),
    "fit on batches": lambda: fitted(sd.ReLU(), [X[:300], X[300:]]),
    "fit on a stream": of_stream,
    "evaluate": evaluated,
    "analysis": examined,
    "initialise_": started,
    "calibrate_threshold": calibrated,
    "load in part": loaded_in_part,
    "embedded model": lambda: [*sd.zoo.load_model().parameters()],
    "attribute": attributed,
    "scores": scored,
    "new losses and penalties": trained_with_new_parts,
    "synthetic data": lambda: [rows()],
}


@pytest.fixture(scope="module")
def expected() -> dict[str, list[Tensor]]:
    return {}


@pytest.mark.filterwarnings("ignore:The dictionary. The target of TargetL0")
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("states", AT_ONCE)
def test_results_do_not_depend_on_the_callers_state(task: str, states: str, expected: dict[str, list[Tensor]]) -> None:
    if task not in expected:
        expected[task] = TASKS[task]()
    with ExitStack() as stack:
        for state in AT_ONCE[states]:
            stack.enter_context(STATES[state]())
        got = TASKS[task]()
    assert len(got) == len(expected[task])
    for value, plain in zip(got, expected[task], strict=True):
        assert value.dtype == plain.dtype
        assert torch.equal(value.nan_to_num(), plain.nan_to_num())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_the_callers_state_is_restored(state: str, fails: bool) -> None:
    def seen() -> tuple[Any, ...]:
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
            torch.get_default_device(),
            torch.get_default_dtype(),
        )

    with STATES[state]():
        before = seen()
        if fails:
            with pytest.raises(RuntimeError, match="broken"):
                sd.fit(coder(sd.ReLU()), X, n_tokens=100, callbacks=[_broken], progress=False)
        else:
            fitted(sd.ReLU(), batch_size=100)
            evaluated()
        assert seen() == before


def _broken(*_: Any) -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize("kind", [sd.SparseAutoencoder, sd.SparseDistiller])
def test_objects_made_in_inference_mode_can_be_trained(kind: type) -> None:
    widths = (D,) if kind is sd.SparseAutoencoder else (D, D)
    with torch.inference_mode():
        dictionary = kind(*widths, N_LATENTS, activation=sd.BatchTopK(4), decoder_norm=sd.UnitNorm())
        first = sd.fit(dictionary, (X, X.clone()), n_tokens=1200, batch_size=100, progress=False)
    second = sd.fit(dictionary, (X, X.clone()), n_tokens=1200, batch_size=100, progress=False)
    assert second.last.fvu < first.last.fvu
    assert not any(value.is_inference() for value in dictionary.state_dict().values())
    dictionary(X).reconstruction.sum().backward()


def test_a_parameter_at_two_places_stays_one() -> None:
    with torch.inference_mode():
        dictionary = coder(sd.ReLU())
        dictionary.encoder = dictionary.decoder
    sd.fit(dictionary, X, n_tokens=200, batch_size=100, progress=False)
    assert dictionary.encoder is dictionary.decoder


def inferred() -> Tensor:
    with torch.inference_mode():
        return X * 1.0


FORMS: dict[str, Callable[[Callable[[], Tensor]], Any]] = {
    "tensor": lambda make: make(),
    "pair": lambda make: (make(), make()),
    "batch": lambda make: sd.ActivationBatch(make(), make(), make()),
    "sites": lambda make: {"a": make(), "b": (make(), make())},
    "list": lambda make: [make()[:300], make()[300:]],
    "list of pairs": lambda make: [(make(), make()), sd.ActivationBatch(make(), make())],
    "generator": lambda make: iter([make() for _ in range(4)]),
    "loader": lambda make: torch.utils.data.DataLoader(_Items(make), batch_size=None),
}


class _Items(torch.utils.data.Dataset[Tensor]):
    def __init__(self, make: Callable[[], Tensor]) -> None:
        self._make = make

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Tensor:
        if index >= len(self):
            raise IndexError
        return self._make()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [inferred, lambda: (X * 1.0).requires_grad_()], ids=["inference", "requires grad"])
def test_data_is_served_detached_and_trainable(form: str, make: Callable[[], Tensor]) -> None:
    for batch in as_batches(FORMS[form](make), repeat=False):
        for part in batch.values():
            assert not part.requires_grad
            assert not part.is_inference()


@pytest.mark.parametrize("form", [form for form in FORMS if form != "sites"])
def test_a_graph_behind_the_data_receives_no_gradients(form: str) -> None:
    model, held = nn.Linear(D, D), X.clone().requires_grad_()
    history = sd.fit(coder(sd.ReLU()), FORMS[form](lambda: model(held)), n_tokens=1200, progress=False)
    assert held.grad is None
    assert model.weight.grad is None
    assert model.bias.grad is None
    assert history.last.fvu == history.last.fvu


def test_a_coefficient_receives_no_gradients() -> None:
    coefficient = torch.full((N_LATENTS,), 0.1, requires_grad=True)
    sd.fit(coder(sd.ReLU()), X, n_tokens=200, penalties=[sd.L1(coefficient)], progress=False)
    assert coefficient.grad is None


def test_batches_and_callbacks_of_the_caller_run_in_the_callers_state() -> None:
    seen: list[tuple[bool, bool]] = []

    def note(*_: Any) -> None:
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))

    def batches() -> Iterator[Tensor]:
        for start in (0, 300):
            note()
            yield X[start : start + 300]

    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        sd.fit(coder(sd.ReLU()), batches(), n_tokens=600, log_every=1, callbacks=[note], progress=False)
    assert seen == [(True, False)] * 4


def test_states_nest() -> None:
    def enabled() -> bool:
        return torch.is_autocast_enabled("cpu")

    with torch.autocast("cpu", torch.bfloat16), own_state():
        assert not enabled()
        with own_state(), callers_state():
            assert enabled()
            with torch.autocast("cpu", enabled=False), own_state(), callers_state():
                assert not enabled()
        with torch.autocast("cpu", torch.bfloat16), own_state():
            assert not enabled()
        other: list[bool] = []
        thread = threading.Thread(target=lambda: other.append(enabled()))
        thread.start()
        thread.join()
        assert other == [False]


def test_a_saved_dictionary_is_read_in_any_state(tmp_path: Path) -> None:
    TRAINED.save(tmp_path / "coder")
    for state in STATES.values():
        with state():
            loaded = sd.load(tmp_path / "coder")
        assert loaded.encoder.device.type == "cpu"
        assert torch.equal(loaded.encoder, TRAINED.encoder)
        assert not loaded.encoder.is_inference()
