"""What the report was left confused about: why sparse latents' decoders too lie fairly close to some neuron."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.analysis import match_neurons
from sparsedict.figures import Palette
from sparsedict.studies._bench import Bench
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import median, number, student, typed

N_DRAWN = 4_096


class SparseDecoders(Study):
    """What chance gives, for ever better notions of chance, beside the sparse latents' cosines with neurons."""

    name: ClassVar[str] = "sparse-decoders"
    title: ClassVar[str] = "Why sparse latents lie near neurons"
    shows: ClassVar[str] = "Appendix A, at its end"
    claim: ClassVar[str] = (
        "The decoders of sparse latents have a moderately high cosine with some neuron's, which the toy of one neuron "
        "leaves unexplained."
    )

    def measure(self, bench: Bench) -> Numbers:
        order = student(bench, bench.layer)
        match, types, firing = typed(bench, order)
        neurons = bench.sites[order.site].neurons
        outputs = bench.held_out(order.site).outputs
        generator = torch.Generator().manual_seed(bench.seed)
        chosen = torch.randperm(len(outputs), generator=generator)[:N_DRAWN]
        centred = outputs - outputs.mean(0)
        mixed = torch.randn(N_DRAWN, centred.shape[1], generator=generator).to(centred.device) @ _root(centred)
        sparse = types.sparse & ~firing.dead.mask
        cosines = {
            "sparse latents": match.decoder_cosine[sparse],
            "random directions": match.null_decoder,
            "random, as outputs vary": match_neurons(mixed, neurons).decoder_cosine,
            "outputs of tokens": match_neurons(centred[chosen], neurons).decoder_cosine,
        }
        two = _explained(bench.dictionary(order).decoder.detach()[sparse], neurons.decoder)
        return {
            "layer": bench.layer,
            "n_sparse": int(sparse.sum()),
            "cosines": cosines,
            "medians": {name: median(values) for name, values in cosines.items()},
            "explained": {name: median(values) for name, values in two.items()},
        }

    def found(self, numbers: Numbers) -> Finding:
        medians = numbers["medians"]
        if not numbers["n_sparse"]:
            return Finding("not measured", "The student has no live sparse latent.")
        high = medians["sparse latents"] > medians["random directions"] + 0.05
        return Finding("seen" if high else "not seen", _summary(numbers), _rows(numbers), _drawings(numbers), NOTES)


NOTES = (
    "Chance, thrice: random directions; random directions that vary as the MLP's outputs do; and what the MLP writes "
    "on single tokens, less its mean.",
    "Neurons for a combination are chosen one after the other, each the nearest to what is left.",
)


def _summary(numbers: Numbers) -> str:
    medians, explained = numbers["medians"], numbers["explained"]
    ours, token = medians["sparse latents"], medians["outputs of tokens"]
    reason = (
        "What the MLP writes on a token is a sum of neurons, a few of them strong, so anything that points where it "
        "writes lies near one: that alone would make the sparse latents' cosines as high."
        if token >= ours
        else "What the MLP writes on a token lies nearer to neurons than chance, but less near than sparse latents do: "
        "writing where the MLP writes is a part of the answer and not all of it."
    )
    return (
        f"Half of the live sparse latents have a cosine above {ours:.2f} with some neuron; of random directions "
        f"{medians['random directions']:.2f}, of random directions that vary as the outputs do "
        f"{medians['random, as outputs vary']:.2f}, of what the MLP writes on single tokens {token:.2f}. {reason} The "
        f"best four neurons together explain {number(explained['4'], '.0%')} of the middle sparse latent's row, one "
        f"neuron {number(explained['1'], '.0%')}."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    return (
        *(
            Compared(
                f"cosine with the nearest neuron, median: {name}",
                "moderately high" if name == "sparse latents" else "-",
                number(value),
            )
            for name, value in numbers["medians"].items()
        ),
        *(
            Compared(f"share of a sparse latent's row explained, median, neurons: {n}", "-", number(value, ".1%"))
            for n, value in numbers["explained"].items()
        ),
    )


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    cosines = {name: torch.tensor(values) for name, values in numbers["cosines"].items()}
    colours = {"sparse latents": Palette.SPARSE, "random directions": Palette.NULL}
    return {
        "sparse-decoders": Drawing(
            lambda: figures.cosine_histograms(cosines, "decoder cosine with the nearest neuron", colours=colours),
            "Sparse latents beside three notions of chance.",
        )
    }


def _root(rows: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    return values.clamp_min(0).sqrt()[:, None] * vectors.T


def _explained(rows: Tensor, neurons: Tensor) -> dict[str, Tensor]:
    """Returns the share of each row's squared norm that its best one to four neurons explain, greedily."""
    directions = torch.nn.functional.normalize(neurons, dim=-1)
    rows = torch.nn.functional.normalize(rows, dim=-1)
    left, chosen = rows.clone(), torch.zeros(len(rows), 0, dtype=torch.int64, device=rows.device)
    found: dict[str, Tensor] = {}
    for count in range(1, 5):
        nearest = (left @ directions.T).abs().argmax(1, keepdim=True)
        chosen = torch.cat([chosen, nearest], dim=1)
        basis = directions[chosen]
        gram = basis @ basis.mT + 1e-6 * torch.eye(count, device=rows.device)
        weights = torch.linalg.solve(gram, basis @ rows[..., None])
        left = rows - (basis.mT @ weights).squeeze(-1)
        found[str(count)] = 1 - left.square().sum(1)
    return found
