"""`attribute`, which builds the attribution graph of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict import checks
from sparsedict.circuits._affine import NotAffineError
from sparsedict.circuits._build import build
from sparsedict.circuits._effects import Columns, DirectEffects
from sparsedict.circuits._expand import expand
from sparsedict.circuits._graph import N_CHECKED, AttributionGraph
from sparsedict.circuits._interventions import Interventions
from sparsedict.circuits._prompt import Prompt
from sparsedict.circuits._sites import AnySites, as_sites
from sparsedict.circuits._targets import Target, resolve_targets
from sparsedict.progress import progress_bar
from sparsedict.sites import Sites
from sparsedict.sites.models import Tokens
from sparsedict.torch_state import in_own_state

CANDIDATES = 16
"""Number of latents that may become nodes, as a multiple of the limit."""

MOST_INCOMPLETE = 1e-3
"""Largest completeness error that rounding may cause."""

Targets = Target | int | Sequence[Target | int] | Int[Tensor, " n"] | None


@in_own_state
def attribute(
    sites: AnySites,
    dictionaries: Any,
    tokens: Tokens | Sequence[int],
    *,
    targets: Targets = None,
    max_latents: int = 2048,
    check: int = N_CHECKED,
    tokenizer: Any = None,
    memory: int = 2**28,
    progress: bool = False,
) -> AttributionGraph:
    r"""Returns the exact direct effects between token embeddings, active latents, error terms and targets on a prompt.

    Attention patterns and the denominators of norms are held at their values on the prompt. The outputs of the MLPs are
    sums of the contributions of the dictionaries' active latents, and of an error term. The rest of the model is then
    affine, for any architecture, and gradients are exact direct effects.

    Every MLP of the model needs a site, since an MLP that isn't cut out isn't affine. The whole output of a site
    without a dictionary is an error term.

    Args:
        sites: The MLPs of one model; or a model, whose MLPs are named by the numbers of their layers.
        dictionaries: Transcoders, as in `Sites.replaced`: a mapping from a site's name to a dictionary or `Neurons`, a
            list, or one dictionary over several layers.
        tokens: One prompt: token ids ``[n_positions]`` or ``[1, n_positions]``, or a mapping of the model's keyword
            arguments.
        targets: The attributed quantities: `TopLogits`, `Logit`, `LogitDifference` or `Latent`, a token id, or a
            sequence of these. By default the most probable tokens after the prompt.
        max_latents: Largest number of latents that become nodes. They are chosen by influence. All other active latents
            of a layer are summed in one node. The same limit applies to tokens and error terms together.
        check: Number of interventions that check the graph; 0 to run them when the graph is first printed.
        tokenizer: Tokenizer of the model, or a function from a token id to its text, for labels.
        memory: Number of bytes for the gradients of one batch of backward passes, and for the activations of the
            interventions that run in one forward pass.
        progress: Whether to show a progress bar.

    Raises:
        NotAffineError: If the model has a nonlinearity that isn't held, whose module the message names, or a value
            isn't the sum of its direct effects and its constant.
        TypeError: If an argument has the wrong type.
        ValueError: If there are several prompts, a target doesn't exist, a dictionary doesn't fit the sites, or the
            model is in half precision.

    Example:
        >>> import torch, sparsedict as sd
        >>> mlps = [torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 4)) for _ in "ab"]
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), *mlps, torch.nn.Linear(4, 10))
        >>> sites = sd.Sites(model, {"0": "1", "1": "2"})
        >>> transcoders = {
        ...     name: sd.SparseDistiller(4, 4, 16, activation=sd.TopK(2), decoder_norm=sd.UnitNorm()) for name in sites
        ... }
        >>> graph = sd.circuits.attribute(sites, transcoders, torch.tensor([1, 2, 3]), targets=[5])
        >>> bool((graph.edges.sum(1) + graph.constants - graph.values).abs().max() < 1e-5)
        True
    """
    sites = as_sites(sites)
    max_latents = checks.at_least("max_latents", max_latents, 1)
    checks.at_least("check", check, 0)
    given = as_prompt(tokens)
    check_precision(sites, given)
    if len(sites) == 1 and not isinstance(dictionaries, Mapping | list):
        dictionaries = dict.fromkeys(sites, dictionaries)
    progress = checks.boolean("progress", progress)
    prompt = Prompt(sites, dictionaries, given)
    with prompt.evaluating():
        graph = _graph(prompt, targets, texts(tokenizer), max_latents, checks.at_least("memory", memory, 1), progress)
    return graph.with_check(check) if check else graph


def _graph(
    prompt: Prompt, targets: Targets, text: Callable[[int], str], max_latents: int, memory: int, progress: bool
) -> AttributionGraph:
    resolved = resolve_targets(prompt, targets, text)
    required = [target.latent for target in resolved if target.latent is not None]
    columns = Columns(prompt, CANDIDATES * max_latents, required)
    prompt.restrict_logits(target.position for target in resolved if target.function is not None)
    effects = DirectEffects(prompt, columns, resolved, memory)
    rows, constants = _of_targets(effects, columns, resolved)
    weights = torch.tensor([target.weight for target in resolved], dtype=rows.dtype, device="cpu")
    weights = weights / weights.sum()
    total = min(max_latents, columns.n_latents)
    with progress_bar("attributing", total=total, unit="latent", shown=progress) as bar:
        expansion = expand(effects, columns, rows, weights, max_latents, bar)
    interventions = Interventions(prompt, columns, expansion.latents, resolved, memory)
    found = build(prompt, columns, expansion, resolved, (rows, constants, weights), interventions, text, max_latents)
    require_complete(found)
    return found


def require_complete(graph: AttributionGraph) -> None:
    """Raises `NotAffineError` if values aren't the sums of their direct effects and constants."""
    error = graph.completeness_error
    if not error <= MOST_INCOMPLETE:
        raise NotAffineError(
            "Values must be the sums of their direct effects and constants, but they deviate by "
            f"{error:.1g} of the sum of magnitudes, where rounding explains at most {MOST_INCOMPLETE:g}. The model or "
            "the skip of a dictionary isn't affine on this prompt. Add a site for each MLP of the model."
        )


def _of_targets(effects: DirectEffects, columns: Columns, resolved: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Returns the direct effects on the targets, and their constants."""
    rows = torch.zeros(len(resolved), columns.n, dtype=columns.values.dtype, device="cpu")
    constants = torch.zeros(len(resolved), dtype=columns.values.dtype, device="cpu")
    of_logits = [i for i, target in enumerate(resolved) if target.function is not None]
    if of_logits:
        rows[of_logits], constants[of_logits] = effects.of_functions()
    for i, target in enumerate(resolved):
        if target.latent is not None:
            unit, local = target.latent
            place = ((columns.units == unit) & (columns.local == local)).nonzero().flatten()
            rows[i : i + 1], constants[i : i + 1] = effects.of_latents(place)
    return rows, constants


def as_prompt(tokens: Any) -> Tokens:
    """Returns tokens as one sequence.

    Raises:
        TypeError: If they aren't token ids.
        ValueError: If there are several sequences, or none, or the sequence has padding.
    """
    if isinstance(tokens, Mapping):
        if not tokens:
            raise ValueError("`tokens` must contain `input_ids` [1, n_positions], got an empty mapping.")
        mask = tokens.get("attention_mask")
        if mask is not None and not bool(torch.as_tensor(mask, device="cpu").bool().all()):
            raise ValueError(
                "`tokens['attention_mask']` must be 1 at all positions, got 0 at some. Remove the padding."
            )
        ids = tokens.get("input_ids")
        return tokens if ids is None else {**tokens, "input_ids": as_prompt(ids)}
    if isinstance(tokens, np.ndarray):
        tokens = checks.from_numpy(tokens)
    elif isinstance(tokens, Sequence) and not isinstance(tokens, str):
        ids = checks.integers("tokens", tokens, 0, "the token ids of one prompt")
        tokens = torch.tensor(ids, device="cpu", dtype=torch.int64)
    is_integer = isinstance(tokens, Tensor) and not tokens.is_floating_point() and not tokens.is_complex()
    if not isinstance(tokens, Tensor) or not is_integer or tokens.dtype == torch.bool:
        got = f"a tensor of {tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"`tokens` must be the token ids of one prompt [n_positions], got {got}.")
    row = tokens[None] if tokens.ndim == 1 else tokens
    if row.ndim != 2 or len(row) != 1 or not row.shape[1]:
        raise ValueError(
            f"`tokens` must be one prompt of at least one token, [n_positions] or [1, n_positions], got shape "
            f"{tuple(tokens.shape)}. Attribute several prompts one after another."
        )
    return row


def check_precision(sites: Sites, tokens: Tokens) -> None:
    """Raises ``ValueError`` for models in half precision, whose rounding would make direct effects inexact."""
    model = sites.models[0]
    half = next((p.dtype for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)), None)
    if half is not None:
        raise ValueError(
            f"The model must be in float32 or float64, got weights of {half}, whose rounding errors would hide direct "
            "effects. Convert the model and the dictionaries with `.float()`."
        )


def texts(tokenizer: Any) -> Callable[[int], str]:
    """Returns the function from token ids to their texts."""
    if tokenizer is None:
        return lambda token: f"token {token}"
    decode = getattr(tokenizer, "decode", tokenizer)
    if not callable(decode):
        raise TypeError(f"`tokenizer` must have `decode` or be a function, got {type(tokenizer).__name__}.")
    return lambda token: repr(decode([token] if decode is not tokenizer else token))
