"""What is said where a site's neurons can't be found."""

from __future__ import annotations

from torch import nn

from sparsedict.sites._ends import Ends
from sparsedict.sites._find import holder_paths
from sparsedict.sites._points import find_module
from sparsedict.sites._suggest import experts_of, is_callable, mlps


def no_neurons(ends: Ends, n_tried: int) -> str:
    """Returns why a site has no neurons that can be found, and what to do."""
    path = holder_paths(ends)[0]
    holder = find_module(ends.model, path) or ends.model
    if experts_of(holder) is not None:
        return f"`neurons` needs one MLP, and {ends.name!r} ({type(holder).__name__}) {of_mixture(holder, path)}"
    remedy = (
        "Give them by hand: `Site(..., neurons=Neurons(encoder, decoder, activation, ...))`, or `neurons=` a function "
        "from the module to `Neurons`. Capturing and replacing work without them."
    )
    if ends.reads == ends.writes:
        return f"`neurons` needs a site that reads before an MLP and writes after it, not only `{ends.reads}`. {remedy}"
    children = ", ".join(f"{name}: {type(child).__name__}" for name, child in holder.named_children())
    looked = (
        "two linear layers and an activation, three linear layers (gated), a fused gate, BERT's "
        "`intermediate`/`output` and TransformerLens' MLPs"
    )
    if n_tried:
        outcome = f"none of the {n_tried} readings gives the site's own output from its own input"
        if ends.reads.module is ends.writes.module:
            outcome += " (a residual or a norm inside the module can be left out with `reads=` and `writes=`)"
    else:
        outcome = "found nothing of the kind"
    inside = mlps(ends.model, path, below=path)
    if inside:
        remedy = f"MLPs in it: {'; '.join(inside)}. {remedy}"
    return f"`neurons` looked for {looked} at {ends.name!r} ({children or 'no children'}) and {outcome}. {remedy}"


def of_mixture(module: nn.Module, path: str) -> str:
    """Returns what to do with a mixture of experts, in words."""
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
        return f"{text}To hook one expert name its module: `Site(model, {first!r})` sees the tokens that it is sent."
    return (
        f"{text}The weights of all experts are fused in {place!r}, so that no module is one expert to hook; its units "
        "can be given by hand: `Site(..., neurons=...)` with a function from the module to the `Neurons` of one expert."
    )
