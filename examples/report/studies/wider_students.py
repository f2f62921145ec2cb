"""An open question of the report: the latents of much larger students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from sparsedict import figures
from sparsedict.activations import TopK
from sparsedict.analysis import match_dictionaries
from sparsedict.figures import Curve, Palette
from sparsedict.norms import UnitNorm

from ..claims import Above, Below, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Difference, Ratio, measured, told
from ..experiment import Experiment
from ..sites import mlp
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import AUXK, Part, along, by_seed, curve, described
from .reading import MIN_EXAMPLES, examples_of, token_share

SHARED = 0.7
N_READ = 200
"""Number of live latents whose examples are measured."""


class WiderStudents(Study):
    """Students with an increasing number of latents per neuron."""

    name: ClassVar[str] = "wider-students"
    title: ClassVar[str] = "Much larger students"
    shows: ClassVar[str] = "An open question of the report"
    claim: ClassVar[str] = (
        "The report asks whether a sufficiently larger student has compelling features. This study tests whether the "
        "widest student has a smaller error than the narrowest, and rarer and more interpretable sparse latents. "
        "Interpretability is measured as the share of the strongest examples that fall on one token."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        setting = experiment.setting
        specs = {_name(expansion): _order(experiment, expansion) for expansion in setting.expansions}
        seeds = by_seed(experiment, specs, _measure)
        for repeat, part in enumerate(seeds):
            part |= _shared(experiment, specs, repeat)
        return {
            "layer": experiment.layer,
            "k": setting.count,
            "expansions": setting.expansions,
            "n_tokens": setting.wide.n_tokens,
            "measured": measured(seeds),
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        small, large = (_name(numbers["expansions"][i]) for i in (0, -1))
        return [
            Clause(f"variance unexplained, {large} over {small}: ratio",
                   Ratio(f"{large}: FVU", f"{small}: FVU"), Below(1)),
            Clause(f"median frequency of sparse latents, {large} over {small}: ratio",
                   Ratio(f"{large}: {FREQUENCY}", f"{small}: {FREQUENCY}"), Below(1)),
            Clause(f"strongest examples on one token, {large} less {small}",
                   Difference(f"{large}: {ON_ONE}", f"{small}: {ON_ONE}"), Above(0), form=".1%"),
        ]  # fmt: skip

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), NOTES)


FREQUENCY, ON_ONE = "frequency of sparse latents", "strongest examples on one token"
LIVE, AGAIN, CONTROL = "live latents", "found again in the next wider", "found again at the same width, another seed"
NOTES = (
    "All students have the same number of training tokens, so that a wide student has fewer tokens for each latent. "
    "Latents that never fire on the held-out tokens are dead. Latents are matched with those of students of another "
    "seed.",
    f"The share of examples on one token is the mean over the first {N_READ} live latents of each student, except "
    f"latents with fewer than {MIN_EXAMPLES} examples. It is a lower bound of interpretability, as in the section on "
    "the first 50 latents. The latents of this study have no ratings.",
)


def _name(expansion: int) -> str:
    return f"{expansion} latents per neuron"


def _order(experiment: Experiment, expansion: int) -> DictionarySpec:
    return DictionarySpec(
        mlp(experiment.layer),
        experiment.width(experiment.layer, expansion),
        experiment.setting.wide,
        (AUXK,),
        activation=TopK(experiment.setting.count),
        decoder_norm=UnitNorm(),
    )


def _measure(experiment: Experiment, spec: DictionarySpec) -> Part:
    alive = experiment.firing(spec).counts > 0
    found = described(experiment, spec)
    found["share of sparse latents"] = (found["live sparse latents"] or 0.0) / spec.n_latents
    return {**found, LIVE: int(alive.sum()), **_token_shares(experiment, spec, alive)}


def _shared(experiment: Experiment, specs: Mapping[str, DictionarySpec], repeat: int) -> Part:
    """Returns the shares of live latents that are also found in the students of the next seed."""
    found: Part = {}
    names = list(specs)
    for name, wider in zip(names, [*names[1:], None], strict=True):
        spec = replace(specs[name], repeat=repeat)
        rows = _live(experiment, spec)
        found[f"{name}: {CONTROL}"] = _share(rows, _live(experiment, experiment.other_seed(spec)))
        if wider is not None:
            other = experiment.other_seed(replace(specs[wider], repeat=repeat))
            found[f"{name}: {AGAIN}"] = _share(rows, _live(experiment, other))
    return found


def _live(experiment: Experiment, spec: DictionarySpec) -> Tensor:
    return experiment.dictionary(spec).decoder.detach()[experiment.firing(spec).counts > 0]


def _share(rows: Tensor, others: Tensor) -> float | None:
    return float((match_dictionaries(rows, others).cosine_a > SHARED).double().mean()) if len(rows) else None


def _summary(numbers: Numbers) -> str:
    known, names = numbers["measured"], [_name(e) for e in numbers["expansions"]]
    small, large = names[0], names[-1]

    def pair(key: str, form: str) -> str:
        return f"from {told(known, f'{small}: {key}', form)} to {told(known, f'{large}: {key}', form)}"

    return (
        f"From {small} to {large}, with {numbers['k']} active latents and {numbers['n_tokens']:,} training tokens for "
        f"each student, the unexplained variance changes {pair('FVU', '.3f')}, the number of live sparse latents "
        f"{pair('live sparse latents', ',.0f')}, their median frequency {pair(FREQUENCY, '.2%')}, and the share of "
        f"their strongest examples on one token {pair(ON_ONE, '.1%')}."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known, names = numbers["measured"], [_name(e) for e in numbers["expansions"]]
    forms = {
        "FVU": ".4f",
        "simulators": ".2%",
        "neurons with a simulator": ".1%",
        "live sparse latents": ",.0f",
        FREQUENCY: ".3%",
        "dead": ".1%",
        ON_ONE: ".1%",
        AGAIN: ".1%",
        CONTROL: ".1%",
    }
    return (
        Compared("latents per neuron", "4", ", ".join(map(str, numbers["expansions"]))),
        *(Compared(key, "-", along(known, (f"{name}: {key}" for name in names), form)) for key, form in forms.items()),
    )


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    known, label = numbers["measured"], "latents per neuron"

    def drawn(key: str, colour: str | None = None, scale: float = 100.0) -> Curve | None:
        return curve(known, {e: f"{_name(e)}: {key}" for e in numbers["expansions"]}, colour, scale=scale)

    types = {
        "simulators": drawn("simulators", Palette.SIMULATORS),
        "live sparse latents": drawn("share of sparse latents", Palette.SPARSE),
        "dead": drawn("dead", Palette.DEAD),
    }
    shares = {name: of for name, of in types.items() if of is not None}
    errors = {name: of for name, of in {"student": drawn("FVU", scale=1.0)}.items() if of is not None}
    bars = "Means over the seeds with 95 % intervals."
    return {
        "wider-types": Drawing(
            lambda: figures.curves(shares, label, "share of latents (%)", x_scale="log"),
            f"Types of the latents by the width of the student. {bars}",
        ),
        "wider-error": Drawing(
            lambda: figures.curves(errors, label, "variance unexplained (FVU)", x_scale="log"),
            f"Error by the width of the student, with {numbers['k']} active latents per token and equal numbers of "
            f"tokens. {bars}",
        ),
    }


def _token_shares(experiment: Experiment, spec: DictionarySpec, alive: Tensor) -> Part:
    """Returns the shares of examples of the first live latents that single tokens explain."""
    found = examples_of(experiment, spec, alive.nonzero().flatten()[:N_READ].tolist())
    known = [part for part in map(token_share, found.values()) if part is not None]
    return {ON_ONE: sum(known) / len(known) if known else None}
