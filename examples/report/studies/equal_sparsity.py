"""The negative result of the report, tested with modern distillers and autoencoders at the same L0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sparsedict import figures
from sparsedict.activations import JumpReLU, TopK
from sparsedict.display import shown
from sparsedict.figures import Curve, Palette
from sparsedict.metrics import fvu
from sparsedict.penalties import TargetL0

from ..claims import Above, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Measured, measured, told
from ..experiment import Experiment
from ..sites import mlp
from ..study import Compared, Drawing, Finding, Numbers, Study
from .limits import best_choice, best_linear, best_values, own_neurons
from .loss_by_layer import AVERAGE, ZERO, loss_parts
from .parts import Part, along, by_seed, curve, modern, row
from .ratios import FAR, KINDS, RATIO_LABEL, ratio_of, read_off

VALUES, CHOICE = "FVU, best values", "FVU, best choice and values"


class EqualSparsity(Study):
    """The ratio of the errors of distillers and autoencoders at the same number of active latents."""

    name: ClassVar[str] = "equal-sparsity"
    title: ClassVar[str] = "The negative result, at equal sparsity"
    shows: ClassVar[str] = "The report's conclusion"
    claim: ClassVar[str] = (
        "The student has a larger error than the autoencoder: 3.06 times as large (3.3038 against 1.0808). In the "
        "report, the two had different numbers of active latents, and the architectures were those of 2023."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        site, setting = mlp(experiment.layer), experiment.setting
        specs, jumps = _orders(experiment), _jumps(experiment)
        experiment.train(
            repeated for spec in (*specs.values(), *jumps.values()) for repeated in experiment.repeated(spec)
        )
        seeds = by_seed(experiment, specs, _measure)
        for part, jump in zip(seeds, by_seed(experiment, jumps, _measure), strict=True):
            part |= jump | _jump_ratios(jump, [n for n in setting.counts if f"JumpReLU {n}, distiller" in jumps])
        sampling = _add_losses(experiment, specs, seeds)
        held, neurons, linear = (
            experiment.held_out(site),
            experiment.sites[site].neurons,
            best_linear(experiment.sample(site)),
        )
        return {
            "layer": experiment.layer,
            "n_tokens": setting.modern.n_tokens,
            "counts": setting.counts,
            "count": setting.count,
            "jumps": list(jumps),
            "measured": measured(seeds, sampling),
            "skip_alone": float(fvu(linear(held.inputs).reconstruction, held.outputs)),
            "neurons": {n: own_neurons(neurons, held, n) for n in setting.counts},
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        ratios = {n: ratio_of(_place(n), "distiller") for n in numbers["counts"]}
        worse = [Clause(f"L0 {n}: the error is above the autoencoder's: ratio", ratio, Above(1), "3.06")
                 for n, ratio in ratios.items()]  # fmt: skip
        far = [Clause(f"L0 {n}: the error is far above the autoencoder's: ratio", ratio, Above(FAR), "3.06")
               for n, ratio in ratios.items()]  # fmt: skip
        return [*worse, *far]

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), NOTES)


NOTES = (
    "All dictionaries have the same width and the same number of training tokens. Ratios are of unexplained variance, "
    "separately for each seed, at the same L0. TopK has the required L0 exactly. JumpReLU is trained for a target L0 "
    "and reaches it approximately. The error of JumpReLU autoencoders is therefore interpolated, on logarithmic axes, "
    "at the L0 of the distiller on held-out tokens.",
    "The difference between a distiller and an autoencoder has three parts: values, choice and decoder rows. For the "
    "best values, the latents that fired on each token get the least-squares solution. For the best choice, matching "
    "pursuit selects the latents from the target, and they get the least-squares solution. This selection is near the "
    "best one, but not equal to it. The remaining difference is due to the decoder rows.",
    "The clauses concern TopK distillers without a skip connection, because the report's student had none.",
)


def _place(n: int) -> str:
    return f"L0 {n}"


def _orders(experiment: Experiment) -> dict[str, DictionarySpec]:
    site, width = mlp(experiment.layer), experiment.width(experiment.layer)
    return {
        f"{_place(n)}, {kind}": modern(
            experiment, site, width, TopK(n), kind=kind.partition(" ")[0], skip="skip" in kind
        )
        for kind in KINDS
        for n in experiment.setting.counts
    }  # fmt: skip


def _jumps(experiment: Experiment) -> dict[str, DictionarySpec]:
    """Returns JumpReLU dictionaries at the lowest and the highest L0, if there are two values."""
    site, width = mlp(experiment.layer), experiment.width(experiment.layer)
    return {
        f"JumpReLU {n}, {kind}": modern(experiment, site, width, JumpReLU(), penalties=(TargetL0(n),), kind=kind)
        for kind in ("distiller", "autoencoder")
        for n in (experiment.setting.counts[0], experiment.setting.counts[-1])
    }


def _measure(experiment: Experiment, spec: DictionarySpec) -> Part:
    """Returns the numbers of one dictionary. The limits are measured only for TopK without a skip connection."""
    found: Part = {"FVU": experiment.error(spec).fvu, "L0": experiment.l0(spec)}
    found["dead"] = experiment.firing(spec).dead.n_dead / spec.n_latents
    if isinstance(spec.activation, TopK) and not spec.skip:
        dictionary, held, k = experiment.dictionary(spec), experiment.held_out(spec.site), spec.activation.k
        found |= {VALUES: best_values(dictionary, held, k), CHOICE: best_choice(dictionary, held, k)}
    return found


def _jump_ratios(jump: Part, counts: Sequence[int]) -> Part:
    """Returns the ratios of the errors of JumpReLU distillers and autoencoders, interpolated at the same L0."""
    points = [(jump[f"JumpReLU {n}, autoencoder: L0"], jump[f"JumpReLU {n}, autoencoder: FVU"]) for n in counts]
    found: Part = {}
    for n in counts:
        ours, l0 = (jump[f"JumpReLU {n}, distiller: {key}"] or 0.0 for key in ("FVU", "L0"))
        theirs = read_off([(x or 0.0, y or 0.0) for x, y in points], l0)
        found[f"JumpReLU {n}: ratio"] = ours / theirs if theirs else None
    return found


def _add_losses(experiment: Experiment, specs: dict[str, DictionarySpec], seeds: list[Part]) -> dict[str, float]:
    """Adds the loss recovered at the middle L0 to the numbers of each seed. Returns the sampling errors."""
    sampling: dict[str, float] = {}
    with experiment.phases("losses", f"measuring the model's loss with {len(KINDS)} kinds of dictionaries"):
        for kind in KINDS:
            name = f"{_place(experiment.setting.count)}, {kind}"
            parts, errors = loss_parts(experiment, specs[name])
            for part, new in zip(seeds, parts, strict=True):
                part |= {f"{name}: {key}": value for key, value in new.items()}
            sampling |= {f"{name}: {key}": value for key, value in errors.items()}
    return sampling


def _summary(numbers: Numbers) -> str:
    known, counts, middle = numbers["measured"], numbers["counts"], _place(numbers["count"])

    def ratios(kind: str, key: str = "FVU") -> str:
        return "; ".join(told(known, ratio_of(_place(n), kind, key), ".2f") for n in counts)

    losses = along(known, (f"{middle}, {kind}: {AVERAGE}" for kind in KINDS), ".1%")
    return (
        f"At L0 {', '.join(map(str, counts))}, on equal numbers of tokens, the error of the TopK distiller is "
        f"{ratios('distiller')} times that of the autoencoder. With a linear skip connection, it is "
        f"{ratios('distiller with skip')} times as large. The skip connection alone leaves "
        f"{shown(numbers['skip_alone'], '.2f')} of the variance unexplained. {_of_jumps(numbers)}With the best values "
        "for the selected latents of each dictionary, the ratio without a skip connection is "
        f"{ratios('distiller', VALUES)}. With latents that are also selected from the target, it is "
        f"{ratios('distiller', CHOICE)}. At {middle}, the distiller, the distiller with skip and the autoencoder "
        f"recover {losses} of the model's loss, relative to the mean output."
    )


def _of_jumps(numbers: Numbers) -> str:
    known = numbers["measured"]
    pairs = [
        f"{told(known, f'JumpReLU {n}: ratio', '.2f')} at L0 {told(known, f'JumpReLU {n}, distiller: L0', '.1f')}"
        for n in numbers["counts"]
        if f"JumpReLU {n}: ratio" in known
    ]
    return f"With JumpReLU, the ratio is {' and '.join(pairs)}. " if pairs else ""


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known, counts = numbers["measured"], numbers["counts"]
    steps = {
        "FVU": "error",
        VALUES: "error with the best values",
        CHOICE: "error with latents selected from the target",
    }
    ratios = [
        row(known, f"{error} over the autoencoder's, {kind}, L0 {n}", ratio_of(_place(n), kind, key),
            "3.06" if key == "FVU" else "-", ".2f")
        for kind in KINDS[:2]
        for key, error in steps.items()
        for n in counts
        if f"{_place(n)}, {kind}: {key}" in known
    ]  # fmt: skip
    jumps = [
        row(
            known,
            f"error over the autoencoder's, JumpReLU distiller, target L0 {n}",
            f"JumpReLU {n}: ratio",
            "3.06",
            ".2f",
        )
        for n in counts
        if f"JumpReLU {n}: ratio" in known
    ]
    return (*ratios, *jumps, *_points(numbers), *_plainer(numbers))


def _points(numbers: Numbers) -> list[Compared]:
    known: Measured = numbers["measured"]
    names = [f"{_place(n)}, {kind}" for kind in KINDS for n in numbers["counts"]] + numbers["jumps"]
    parts = {"L0": ".1f", "FVU": ".4f", "dead": ".1%"}
    found = [
        Compared(
            f"{name}: {', '.join(parts)}", "-", "; ".join(told(known, f"{name}: {k}", f) for k, f in parts.items())
        )
        for name in names
    ]
    middle = _place(numbers["count"])
    losses = [row(known, f"{middle}, {kind}: {key}", f"{middle}, {kind}: {key}", form=".1%")
              for kind in KINDS for key in (ZERO, AVERAGE)]  # fmt: skip
    return [*found, *losses]


def _plainer(numbers: Numbers) -> list[Compared]:
    own = numbers["neurons"]
    return [
        Compared("the skip alone: FVU", "-", shown(numbers["skip_alone"], ".4f")),
        Compared(
            f"the MLP's own neurons, the strongest {', '.join(map(str, own))} on each token: FVU",
            "-",
            ", ".join(shown(error, ".3f") for error in own.values()),
        ),
    ]


L0_LABEL = "active latents per token (L0)"
BARS = "Means over the seeds with 95 % intervals."


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    known, counts = numbers["measured"], numbers["counts"]
    found = {
        kind: curve(known, {n: ratio_of(_place(n), kind) for n in counts}, colour)
        for kind, colour in zip(KINDS, (Palette.DISTILLER, Palette.ENCODER), strict=False)
    }
    ratios = {name: of for name, of in found.items() if of is not None}
    return {
        "equal-sparsity-ratio": Drawing(
            lambda: figures.curves(ratios, L0_LABEL, RATIO_LABEL, x_scale="log", levels={"equal": 1.0}),
            f"Unexplained variance of the distiller over that of the autoencoder, TopK. {BARS} The ratio in the "
            "report is 3.06.",
        ),
        "equal-sparsity-error": _errors(numbers),
    }


def _errors(numbers: Numbers) -> Drawing:
    known, counts = numbers["measured"], numbers["counts"]
    colours = (Palette.DISTILLER, Palette.ENCODER, Palette.AUTOENCODER)
    found = {
        kind: curve(known, {n: f"{_place(n)}, {kind}: FVU" for n in counts}, colour, dashed="skip" in kind)
        for kind, colour in zip(KINDS, colours, strict=True)
    }
    drawn = {name: of for name, of in found.items() if of is not None}
    drawn["own neurons"] = Curve(counts, list(numbers["neurons"].values()), Palette.NULL, dashed=True)
    levels = {"skip alone": numbers["skip_alone"]}
    return Drawing(
        lambda: figures.curves(
            drawn, L0_LABEL, "variance unexplained (FVU)", x_scale="log", y_scale="log", levels=levels
        ),
        "Unexplained variance by L0 with TopK, compared with the skip connection alone and the MLP's strongest "
        f"neurons. {BARS}",
    )
