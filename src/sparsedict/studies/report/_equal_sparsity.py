"""The negative result, taken on: distillers of today's forms beside autoencoders at equal numbers of active latents."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from sparsedict import figures
from sparsedict.activations import JumpReLU, ReLU, TopK
from sparsedict.dictionaries import Dictionary, SparseDistiller
from sparsedict.figures import Curve, Palette
from sparsedict.metrics import fvu
from sparsedict.norms import Free
from sparsedict.penalties import TargetL0
from sparsedict.studies._bench import Bench, mlp
from sparsedict.studies._order import Order
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import modern, number
from sparsedict.types import ActivationBatch

N_SOLVED = 2_048
"""Tokens on which the best values for the chosen latents are solved for."""
JUMP = JumpReLU(threshold=0.4, bandwidth=0.3)
"""A threshold that few latents reach at the start: training is dense, and slow, where many do."""
FORMS = ("distiller", "distiller with skip", "autoencoder", "JumpReLU distiller", "JumpReLU autoencoder")


class EqualSparsity(Study):
    """How much worse a distiller is than an autoencoder when both may use as many latents."""

    name: ClassVar[str] = "equal-sparsity"
    title: ClassVar[str] = "The negative result, at equal sparsity"
    shows: ClassVar[str] = "The report's conclusion"
    claim: ClassVar[str] = (
        "The student doesn't compare favourably with the autoencoder: its error is 3.06 times as large (3.3038 against "
        "1.0808). The two had different numbers of active latents, and the forms of dictionaries were those of 2023."
    )

    def measure(self, bench: Bench) -> Numbers:
        orders = _orders(bench)
        bench.train(orders.values())
        site = mlp(bench.layer)
        found: Numbers = {"layer": bench.layer, "points": [], "n_tokens": bench.setting.modern.n_tokens}
        with bench.phases("losses", f"measuring the model's loss with {len(orders)} dictionaries in turn"):
            for (form, count), order in orders.items():
                losses = bench.losses(order)
                found["points"].append(
                    {
                        "form": form,
                        "asked": count,
                        "l0": bench.l0(order),
                        "fvu": bench.error(order).fvu,
                        "squared_error": bench.error(order).squared_error,
                        "n_dead": bench.firing(order).dead.n_dead,
                        "recovered_zero": losses.zero,
                        "recovered_mean": losses.mean,
                        "solved_fvu": _solved(bench, order) if isinstance(order.activation, TopK) else None,
                    }
                )
            found["skip_alone"] = _skip_alone(bench, site)
        neurons = bench.sites[site].neurons
        found["neurons"] = [
            {"l0": count, "fvu": _own_neurons(neurons, bench.held_out(site), count)} for count in bench.setting.counts
        ]
        return found

    def found(self, numbers: Numbers) -> Finding:
        points = numbers["points"]
        by_form = {form: [p for p in points if p["form"] == form] for form in FORMS}
        ratios = _ratios(by_form)
        skip = numbers["skip_alone"]
        drawings = {
            "equal-sparsity-error": _drawing(by_form, numbers, "fvu", "variance unexplained (FVU)"),
            "equal-sparsity-loss": _drawing(by_form, numbers, "recovered_mean", "loss recovered, mean (%)"),
        }
        best = {count: min(of.values()) for count, of in ratios.items()}
        reached = [count for count, ratio in best.items() if ratio <= 1.0]
        summary = (
            "At equal L0 on equal tokens, the distiller's error is "
            + ", ".join(f"{ratios[count]['distiller']:.2f} (L0 {count})" for count in ratios)
            + " times the autoencoder's, and with a linear skip "
            + ", ".join(f"{ratios[count]['distiller with skip']:.2f}" for count in ratios)
            + f". The skip alone leaves {skip['fvu']:.2f} of the variance. "
            + _why(by_form)
        )
        rows = []
        for count, of in ratios.items():
            rows += [
                Compared(f"error over the autoencoder's, {form}, L0 {count}", "3.06", f"{r:.2f}")
                for form, r in of.items()
            ]
        for form in ("distiller", "autoencoder"):
            for p in by_form[form]:
                rows.append(
                    Compared(
                        f"{form}, L0 {p['asked']}: FVU; with the best values for the same latents",
                        "-",
                        f"{p['fvu']:.4f}; {number(p['solved_fvu'], '.4f')}",
                    )
                )
        rows += [
            Compared(
                f"{p['form']}, asked for {p['asked']}: L0, FVU, loss recovered (mean)",
                "-",
                f"{p['l0']:.1f}, {p['fvu']:.4f}, {p['recovered_mean']:.1%}",
            )
            for p in points
            if p["form"].startswith("JumpReLU") or "skip" in p["form"]
        ]
        rows += [
            Compared(
                "the skip alone: FVU, loss recovered (mean)", "-", f"{skip['fvu']:.4f}, {skip['recovered_mean']:.1%}"
            ),
            Compared(
                f"the MLP's own neurons, the strongest {', '.join(str(p['l0']) for p in numbers['neurons'])} on each "
                "token: FVU",
                "-",
                ", ".join(f"{p['fvu']:.3f}" for p in numbers["neurons"]),
            ),
        ]
        # The report's claim is that the student is worse: it isn't seen where the student is as good or better.
        verdict = "not seen" if len(reached) == len(best) else "partly seen" if reached else "seen"
        return Finding(verdict, summary, tuple(rows), drawings, NOTES)


NOTES = (
    "Every dictionary has the same width, tokens and seed. The best values for the same latents are the least-squares "
    "solution on each token for the latents that fired there: what is left is owed to the choice of latents and their "
    "decoder rows, the rest to the encoder's values.",
    "JumpReLU dictionaries are trained to a target L0 and reach it about, not exactly: compare them along the curve.",
)


def _orders(bench: Bench) -> dict[tuple[str, int], Order]:
    site, width = mlp(bench.layer), bench.width(bench.layer)
    orders: dict[tuple[str, int], Order] = {}
    counts = bench.setting.counts
    for count in counts:
        for form in FORMS[:3]:
            kind = "autoencoder" if form == "autoencoder" else "distiller"
            orders[form, count] = modern(bench, site, width, TopK(count), kind=kind, skip="skip" in form)
    count = bench.setting.count
    penalties = (TargetL0(count, float(f"{bench.variance(site) / 10:.3g}")),)
    for form, kind in (("JumpReLU distiller", "distiller"), ("JumpReLU autoencoder", "autoencoder")):
        orders[form, count] = modern(bench, site, width, JUMP, kind=kind, penalties=penalties)
    return orders


def _ratios(by_form: dict[str, list[Numbers]]) -> dict[int, dict[str, float]]:
    coder = {p["asked"]: p["fvu"] for p in by_form["autoencoder"]}
    return {
        count: {form: next(p["fvu"] for p in by_form[form] if p["asked"] == count) / of for form in FORMS[:2]}
        for count, of in coder.items()
    }


def _why(by_form: dict[str, list[Numbers]]) -> str:
    """Says what the rest of the ratio is owed to."""
    ours, theirs = by_form["distiller"][0], by_form["autoencoder"][0]
    if ours["solved_fvu"] is None or theirs["solved_fvu"] is None:
        return ""
    plain, solved = ours["fvu"] / theirs["fvu"], ours["solved_fvu"] / theirs["solved_fvu"]
    return (
        f"At L0 {ours['asked']}, with the best values for the latents that each chose, the ratio is {solved:.2f} "
        f"instead of {plain:.2f}: "
        + (
            "what holds it up is rather the encoder, which must find the values through the MLP's nonlinearity."
            if solved < plain
            else "what holds it up is rather the choice of latents, which the autoencoder makes with the answer in "
            "view."
        )
    )


def _drawing(by_form: dict[str, list[Numbers]], numbers: Numbers, key: str, label: str) -> Drawing:
    scale = 1.0 if key == "fvu" else 100.0
    colours = (Palette.DISTILLER, Palette.DISTILLER, Palette.AUTOENCODER, *Palette.SERIES[2:4])
    drawn = {
        form: Curve([p["l0"] for p in of], [scale * p[key] for p in of], colour, dashed="skip" in form)
        for (form, of), colour in zip(by_form.items(), colours, strict=True)
        if of
    }
    if key == "fvu":
        own = numbers["neurons"]
        drawn["the MLP's own neurons"] = Curve(
            [p["l0"] for p in own], [p["fvu"] for p in own], Palette.NULL, dashed=True
        )
    levels = {"skip alone": scale * numbers["skip_alone"][key]}
    return Drawing(
        lambda: figures.curves(
            drawn,
            "active latents per token (L0)",
            label,
            x_scale="log",
            y_scale="log" if key == "fvu" else "linear",
            levels=levels,
        ),
        "Error against L0, beside the skip alone and the MLP's own strongest neurons."
        if key == "fvu"
        else "Loss recovered against L0, with the mean output as zero.",
    )


@torch.no_grad()
def _solved(bench: Bench, order: Order) -> float:
    """Returns the FVU with the best values for the latents that fired."""
    dictionary = bench.dictionary(order)
    held = bench.held_out(order.site)
    batch = ActivationBatch(held.inputs[:N_SOLVED], held.outputs[:N_SOLVED])
    inputs, targets = dictionary.select(batch)
    latents = dictionary.encode(inputs)
    base = dictionary.reconstruct(torch.zeros_like(latents), inputs)
    assert isinstance(order.activation, TopK)
    values, chosen = latents.topk(order.activation.k, dim=-1)
    # Rows of latents that are zero all the same are left out of the system by being zero.
    rows = dictionary.decoder[chosen] * (values > 0)[..., None]
    gram = rows @ rows.mT + 1e-5 * torch.eye(order.activation.k)
    right = rows @ (targets - base)[..., None]
    best = torch.linalg.solve(gram, right)
    return float(fvu(base + (rows.mT @ best).squeeze(-1), targets))


@torch.no_grad()
def _skip_alone(bench: Bench, site: str) -> dict[str, float]:
    """Fits the best affine map from the MLP's input to its output, and puts it in the MLP's place."""
    held = bench.held_out(site)
    sample = bench.training_data([site])
    data: ActivationBatch = held if sample is None else sample[site]
    x, y = data.inputs.double(), data.outputs.double()
    centre_x, centre_y = x.mean(0), y.mean(0)
    x, y = x - centre_x, y - centre_y
    covariance = x.T @ x
    covariance.diagonal().add_(1e-6 * covariance.diagonal().mean())
    slope = torch.linalg.solve(covariance, x.T @ y).T.float()
    linear: Dictionary = SparseDistiller(
        held.inputs.shape[1], held.outputs.shape[1], 1, activation=ReLU(), decoder_norm=Free(), skip=True
    )
    linear.encoder.zero_()
    linear.decoder.zero_()
    linear.skip.copy_(slope)  # pyright: ignore
    linear.decoder_bias.copy_(centre_y.float() - slope @ centre_x.float())
    losses = bench.losses_of(site, linear)
    left = float(fvu(linear(held.inputs).reconstruction, held.outputs))
    return {"fvu": left, "recovered_zero": losses.zero, "recovered_mean": losses.mean}


@torch.no_grad()
def _own_neurons(neurons: Any, held: ActivationBatch, count: int) -> float:
    """Returns the FVU of the MLP's own strongest neurons on each token, the others held at their means."""
    activations = neurons.encode(held.inputs[:N_SOLVED])
    mean = activations.mean(0)
    strength = (activations - mean).abs() * neurons.decoder.norm(dim=1)
    keep = torch.zeros_like(activations, dtype=torch.bool)
    keep.scatter_(1, strength.topk(min(count, activations.shape[1]), dim=-1).indices, True)
    return float(fvu(neurons.decode(torch.where(keep, activations, mean)), held.outputs[:N_SOLVED]))
