"""`sparse_probes`, how well few latents predict labels of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks, display
from sparsedict.analysis._bootstrap import Estimate
from sparsedict.analysis.scores._extra import needed
from sparsedict.analysis.scores._labels import Labelling, labelled
from sparsedict.analysis.scores._probe_examples import (
    ProbeExamples,
    draw_probe_examples,
    first_half_mask,
    frequent_labels,
    most_predictive,
)
from sparsedict.analysis.scores._representations import Representation, represented_by
from sparsedict.analysis.scores._result import mean_estimate
from sparsedict.analysis.scores._token_latents import TokenLatents, checked_text
from sparsedict.display import Displayed
from sparsedict.torch_state import in_own_state


@dataclass(frozen=True, eq=False, repr=False)
class ProbeScores(Displayed):
    """Accuracies of probes on held-out text, each for one label against all others. Chance is 1/2.

    Attributes:
        labels: The labels in words.
        accuracy: Accuracy for each label by probe, such as ``"latents, k=1"``, ``[n_labels]`` each.
        chosen: The most predictive latents of each label, the best first, ``[n_labels, max(k)]``.
        n_test: Number of held-out tokens for each label, half of them with the label, ``[n_labels]``.
        seed: Random seed.
    """

    labels: tuple[str, ...]
    accuracy: dict[str, Tensor]
    chosen: Int[Tensor, "n_labels n_best"]
    n_test: Int[Tensor, " n_labels"]
    seed: int = 0

    def mean(self, probe: str) -> Estimate:
        """Returns the mean accuracy over labels, with its bootstrap interval over labels.

        Raises:
            ValueError: If there is no such probe.
        """
        return mean_estimate(self.accuracy[checks.one_of("probe", probe, self.accuracy)], self.seed)

    def interval(self, probe: str) -> tuple[Tensor, Tensor]:
        """Returns the 95 % interval (Wilson's) of the accuracy for each label, ``[n_labels]`` each."""
        share, n = self.accuracy[checks.one_of("probe", probe, self.accuracy)], self.n_test
        centre = (share + 1.92 / n) / (1 + 3.84 / n)
        half = 1.96 / (1 + 3.84 / n) * (share * (1 - share) / n + 0.96 / n**2).sqrt()
        return centre - half, centre + half

    def to_dict(self) -> dict[str, Any]:
        """Returns the scores as JSON-compatible values."""
        return display.finite(
            {
                "labels": list(self.labels),
                "accuracy": {name: accuracy.tolist() for name, accuracy in self.accuracy.items()},
                "mean": {name: asdict(self.mean(name)) for name in self.accuracy},
                "chosen": self.chosen.tolist(),
                "n_test": self.n_test.tolist(),
                "chance": 0.5,
                "seed": self.seed,
            }
        )

    def display_rows(self) -> list[tuple[str, ...]]:
        return [("labels", f"{len(self.labels):,}"), *((name, str(self.mean(name))) for name in self.accuracy)]

    def __repr__(self) -> str:
        means = ", ".join(f"{name}: {self.mean(name).value:.3f}" for name in self.accuracy)
        return f"ProbeScores({len(self.labels)} labels, {means})"


@in_own_state
def sparse_probes(
    text: TokenLatents,
    labelling: Labelling,
    *,
    k: int | Sequence[int] = (1, 2, 5),
    neurons: TokenLatents | None = None,
    dense: Representation | None = None,
    max_labels: int = 20,
    n_examples: int = 2000,
    seed: int = 0,
) -> ProbeScores:
    """Trains logistic regressions that predict labels of tokens from the k most predictive latents.

    Each probe separates one of the most frequent labels from all others. Both classes have equally many tokens, so
    chance is 1/2. Latents are chosen and probes are trained on half of the sequences, and the accuracy is measured on
    the other half. Latents are chosen by the difference of their class means in units of their standard deviation.

    Args:
        text: Latents on text.
        labelling: Labels of tokens: `ClassAt`, `PositionInSequence`, ``TokensAt((1,))`` (the next token), `PythonNode`
            or `Labels` of your own.
        k: Numbers of latents.
        neurons: The MLP's neurons on the same text, for comparison.
        dense: A representation, such as `SiteStates`, for a probe of all of its coordinates.
        max_labels: Largest number of labels.
        n_examples: Largest number of tokens per label in each half, half of them with the label.
        seed: Random seed of the split and of the tokens.

    Raises:
        ImportError: If scikit-learn isn't installed (``pip install 'sparsedict[scores]'``).
        ValueError: If no label is on 20 tokens of both halves, ``k`` exceeds the number of latents, or ``neurons`` are
            on other text.

    Source: Gurnee et al., "Finding neurons in a haystack: case studies with sparse probing", TMLR, 2023.
    """
    needed("sklearn.linear_model", "Probing", "scikit-learn")
    text = checked_text(text)
    sources = {"latents": text} if neurons is None else {"latents": text, "neurons": _neurons(neurons)}
    sizes = _checked(sources, k)
    labels = labelled(labelling, text)
    if labels is None:
        raise ValueError("`text.strings` must be passed for this labelling, got None.")
    ids = torch.where(text.kept, labels.ids, -1).flatten()
    in_first = first_half_mask(text, seed)
    values = frequent_labels(ids, in_first, checks.at_least("max_labels", max_labels, 1))
    sampled = [
        draw_probe_examples(ids, value, in_first, checks.at_least("n_examples", n_examples, 2), seed)
        for value in values
    ]
    accuracy: dict[str, Tensor] = {}
    chosen = torch.zeros(0, dtype=torch.int64, device="cpu")
    for name, source in sources.items():
        best = torch.stack([most_predictive(source, ids, value, in_first, sizes[-1]) for value in values])
        chosen = best if name == "latents" else chosen
        found = [_sparse_accuracies(source, own, best[i], sizes) for i, own in enumerate(sampled)]
        accuracy |= {f"{name}, k={size}": _tensor([own[i] for own in found]) for i, size in enumerate(sizes)}
    if dense is not None:
        accuracy["dense"] = _dense_accuracies(dense, text, sampled)
    return ProbeScores(
        tuple(labels.words([value]) for value in values),
        accuracy,
        chosen,
        torch.tensor([len(own.test) for own in sampled], device="cpu"),
        seed,
    )


def _checked(sources: dict[str, TokenLatents], k: int | Sequence[int]) -> list[int]:
    given = [k] if hasattr(k, "__index__") and not getattr(k, "ndim", 0) else k
    sizes = sorted(set(checks.integers("k", given, 1, "numbers of latents such as (1, 5)")))
    for name, source in sources.items():
        if sizes[-1] > source.n_latents:
            raise ValueError(f"`k` must be at most the number of {name}, {source.n_latents}, got {sizes[-1]}.")
        if not torch.equal(source.tokens, sources["latents"].tokens):
            raise ValueError("`neurons` must be recorded on the tokens of `text`, got other tokens.")
    return sizes


def _neurons(neurons: Any) -> TokenLatents:
    if not isinstance(neurons, TokenLatents):
        raise TypeError(
            "`neurons` must be the neurons on the same text, which `scores.record(site, site.neurons, tokens)` "
            f"returns, got {type(neurons).__name__}."
        )
    return neurons


def _sparse_accuracies(text: TokenLatents, examples: ProbeExamples, best: Tensor, sizes: list[int]) -> list[float]:
    few = text.latents(best)
    train, test = (
        few.values_at(
            torch.arange(len(best), device="cpu").repeat(len(places)), places.repeat_interleave(len(best))
        ).view(len(places), len(best))
        for places in (examples.train, examples.test)
    )
    return [_accuracy(train[:, :size], test[:, :size], examples) for size in sizes]


def _dense_accuracies(dense: Representation, text: TokenLatents, sampled: list[ProbeExamples]) -> Tensor:
    used = torch.cat([torch.cat([own.train, own.test]) for own in sampled]).unique()
    states = represented_by(dense, text, used)
    at = [[states[torch.searchsorted(used, places)] for places in (own.train, own.test)] for own in sampled]
    return _tensor([_accuracy(train, test, own) for (train, test), own in zip(at, sampled, strict=True)])


def _tensor(accuracies: list[float]) -> Tensor:
    return torch.tensor(accuracies, device="cpu", dtype=torch.float32)


def _accuracy(train: Float[Tensor, "n d"], test: Float[Tensor, "m d"], examples: ProbeExamples) -> float:
    """Returns the accuracy of a logistic regression on standardised inputs."""
    linear = needed("sklearn.linear_model", "Probing", "scikit-learn")
    preprocessing = needed("sklearn.preprocessing", "Probing", "scikit-learn")
    pipeline = needed("sklearn.pipeline", "Probing", "scikit-learn")
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), linear.LogisticRegression(max_iter=1000))
    model.fit(train.double().numpy(), examples.train_labels.numpy())
    return float(model.score(test.double().numpy(), examples.test_labels.numpy()))
