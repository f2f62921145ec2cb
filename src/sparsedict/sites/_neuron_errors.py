"""Error messages for sites whose neurons can't be found."""

from __future__ import annotations

from torch import nn

from sparsedict.sites._ends import Ends
from sparsedict.sites._find import holder_paths
from sparsedict.sites._points import find_module
from sparsedict.sites._suggest import experts_of, is_callable, mlps


def neurons_error(ends: Ends, n_tried: int) -> str:
    """Returns the message for a site whose neurons can't be found, with a remedy."""
    path = holder_paths(ends)[0]
    holder = find_module(ends.model, path) or ends.model
    if experts_of(holder) is not None:
        return (
            f"`neurons` needs a single MLP, but {ends.name!r} ({type(holder).__name__}) {mixture_error(holder, path)}"
        )
    remedy = (
        "Pass the neurons explicitly: `Site(..., neurons=Neurons(encoder, decoder, activation, ...))`, or as "
        "`neurons=` a function from the module to `Neurons`. Capturing and replacing work without neurons."
    )
    if ends.reads == ends.writes:
        return (
            f"`neurons` needs a site that reads an MLP's input and writes its output, got only `{ends.reads}`. {remedy}"
        )
    children = ", ".join(f"{name}: {type(child).__name__}" for name, child in holder.named_children())
    looked = (
        "two linear layers and an activation, three linear layers (gated), a fused gate, BERT's "
        "`intermediate`/`output` and TransformerLens' MLPs"
    )
    if n_tried:
        outcome = f"none of the {n_tried} candidates reproduces the site's output from its input"
        if ends.reads.module is ends.writes.module:
            outcome += " (use `reads=` and `writes=` to exclude a residual connection or a norm inside the module)"
    else:
        outcome = "found none of these"
    inside = mlps(ends.model, path, below=path)
    if inside:
        remedy = f"MLPs in it: {'; '.join(inside)}. {remedy}"
    return f"`neurons` looked for {looked} at {ends.name!r} ({children or 'no children'}) and {outcome}. {remedy}"


def mixture_error(module: nn.Module, path: str) -> str:
    """Returns the second part of the message for a mixture of experts."""
    experts = experts_of(module)
    assert experts is not None
    name = next(name for name, inner in module.named_modules() if inner is experts)
    place = f"{path}.{name}" if path else name
    text = (
        "is a mixture of experts: a router sends each token to some of them, so it has no neurons that act on all "
        "tokens. Capturing and replacing work on the mixture as a whole. "
    )
    if not is_callable(experts):
        first = f"{place}.{next(iter(dict(experts.named_children())), 0)}"
        return f"{text}For a single expert, use its module: `Site(model, {first!r})` sees the tokens routed to it."
    return (
        f"{text}The weights of all experts are fused in {place!r}, so no module is a single expert. Pass its neurons "
        "explicitly: `Site(..., neurons=...)` with a function from the module to the `Neurons` of one expert."
    )
