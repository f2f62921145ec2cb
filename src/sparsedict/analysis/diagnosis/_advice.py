"""`Advice`, rules that derive a training run from statistics of activations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sparsedict.analysis.diagnosis._huge_tokens import HugeTokens
from sparsedict.analysis.diagnosis._point_statistics import PointStatistics
from sparsedict.display import Displayed
from sparsedict.norms import InputCentre, InputNorm, InputRMSNorm, InputStandardise

LARGE_MEAN = 1.5
"""Mean over spread above which a distiller's input is centred."""
OUTLIER_SHARE = 0.3
"""Share of the variance in outlier dimensions above which a norm is advised."""
HUGE_SHARE = 0.05
"""Share of the squared distances in huge tokens above which they are excluded."""
RARE = 0.05
"""Largest share of the tokens that is excluded as rare."""
MOST = 0.9
"""Share of the huge tokens that an exclusion must cover."""
LINEAR_SHARE = 0.2
"""Share of the outputs that is linear in the inputs, above which a skip is advised."""
USUAL_K = 32


@dataclass(frozen=True)
class Finding:
    """The result of one rule.

    Attributes:
        subject: The part of the training run, such as ``"norm of a distiller"``.
        advice: The argument to pass, or ``"default"`` if the rule finds no reason for a change.
        reason: The numbers that decided.
        changes: Whether the advice differs from the default.
    """

    subject: str
    advice: str
    reason: str
    changes: bool


@dataclass(frozen=True, eq=False, repr=False)
class Advice(Displayed):
    """Options of a training run that follow from a diagnosis.

    Attributes:
        site: Options of `Site`: ``exclude_first`` or ``exclude_tokens``. Empty without exclusions.
        distiller: Options of `SparseDistiller`: ``input_norm`` and ``skip``. Empty without changes.
        autoencoder: Options of `SparseAutoencoder` of the outputs, or of the only point: ``input_norm``.
        k: Number of active latents to start with, for `TopK` and `BatchTopK`.
        findings: The result of every rule with its reason, also of those that advise no change.
    """

    site: Mapping[str, Any]
    distiller: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    k: int
    findings: tuple[Finding, ...]

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the advice of each rule and its reason."""
        return [(f"advice, {own.subject}", f"{own.advice} ({own.reason})") for own in self.findings]


def advise(statistics: Mapping[str, PointStatistics], huge: Mapping[str, HugeTokens], linear_share: float) -> Advice:
    """Returns the advice of all rules.

    Args:
        statistics: Statistics by point, without huge tokens.
        huge: Huge tokens by point.
        linear_share: Share of the outputs that is linear in the inputs; NaN if unknown.
    """
    written = statistics.get("outputs", next(iter(statistics.values())))
    exclusion, site = _exclusion(huge)
    k, k_finding = _k(written)
    norm, norm_finding = _autoencoder_norm(written)
    findings, distiller = [exclusion, norm_finding], {}
    if "inputs" in statistics and len(statistics) > 1:
        own, finding = _distiller_norm(statistics["inputs"])
        skip, skip_finding = _skip(linear_share)
        distiller = ({} if own is None else {"input_norm": own}) | ({"skip": True} if skip else {})
        findings += [finding, skip_finding]
    findings += [k_finding, _start(), _rate()]
    autoencoder = {} if norm is None else {"input_norm": norm}
    return Advice(*map(MappingProxyType, (site, distiller, autoencoder)), k=k, findings=tuple(findings))


def _exclusion(huge: Mapping[str, HugeTokens]) -> tuple[Finding, dict[str, Any]]:
    """Returns which tokens to exclude: the first position, some ids, or none."""
    subject = "tokens to exclude"
    own = max(huge.values(), key=lambda part: part.variance_share)
    reason = f"huge tokens are {own.share:.2%} of the tokens and hold {own.variance_share:.1%} of the squared distances"
    if not own.n:
        return Finding(subject, "none", "no huge tokens", False), {}
    if own.variance_share < HUGE_SHARE or own.share > RARE:
        return Finding(subject, "none", reason, False), {}
    if own.n_first is not None and own.n_first >= MOST * own.n and 2 * own.n_first >= own.n_first_seen:
        return Finding(subject, "exclude_first=1", reason, True), {"exclude_first": 1}
    listed = [part.token for part in own.tokens or () if 2 * part.n >= part.n_seen]
    if listed and own.covered >= MOST:
        return Finding(subject, f"exclude_tokens={listed}", reason, True), {"exclude_tokens": tuple(listed)}
    return Finding(subject, "rows with huge norms, by hand", f"{reason}, at no common position or id", True), {}


def _distiller_norm(inputs: PointStatistics) -> tuple[InputNorm | None, Finding]:
    subject = "norm of a distiller"
    if inputs.outlier_share > OUTLIER_SHARE:
        reason = f"outlier dimensions hold {inputs.outlier_share:.0%} of the variance of the inputs"
        return InputStandardise(), Finding(subject, "InputStandardise()", reason, True)
    reason = f"mean over spread of the inputs is {inputs.mean_over_spread:.3g}, limit {LARGE_MEAN:g}"
    if inputs.mean_over_spread > LARGE_MEAN:
        return InputCentre(), Finding(subject, "InputCentre()", reason, True)
    return None, Finding(subject, "none", reason, False)


def _autoencoder_norm(read: PointStatistics) -> tuple[InputNorm | None, Finding]:
    subject = "norm of an autoencoder"
    reason = f"outlier dimensions hold {read.outlier_share:.0%} of the variance"
    if read.outlier_share > OUTLIER_SHARE:
        return InputRMSNorm(), Finding(subject, "InputRMSNorm()", reason, True)
    # The decoder bias starts at the mean and is subtracted from the input, so a large mean needs no norm.
    return None, Finding(subject, "none", reason, False)


def _skip(linear_share: float) -> tuple[bool, Finding]:
    subject = "skip of a distiller"
    if math.isnan(linear_share):
        return False, Finding(subject, "none", "too few tokens to measure the linear share", False)
    reason = f"{linear_share:.0%} of the outputs are linear in the inputs"
    skip = linear_share > LINEAR_SHARE
    return skip, Finding(subject, "skip=True" if skip else "none", reason, skip)


def _k(written: PointStatistics) -> tuple[int, Finding]:
    """Returns a k below the effective rank: as many directions reconstruct a token without any sparsity."""
    k = max(1, min(USUAL_K, round(written.effective_rank / 2)))
    reason = f"effective rank {written.effective_rank:.1f}"
    return k, Finding("k", f"{k}", reason, k != USUAL_K)


def _start() -> Finding:
    reason = "`fit` starts each latent at a token, and the decoder's bias at the mean"
    return Finding("start", "default", reason, False)


def _rate() -> Finding:
    reason = "the default is in units of the data, so it doesn't depend on their scale"
    return Finding("rate", "default", reason, False)
