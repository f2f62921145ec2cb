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
        found = mixture_error(ends.model, holder, path)
        return f"`neurons` needs a single MLP, but {ends.name!r} ({type(holder).__name__}) {found}"
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


def mixture_error(model: nn.Module, module: nn.Module, path: str) -> str:
    """Returns the second part of the message for a mixture of experts.

    Args:
        model: The model.
        module: The mixture.
        path: Path of the mixture in the model.
    """
    experts = experts_of(module)
    assert experts is not None
    name = next(name for name, inner in module.named_modules() if inner is experts)
    place = f"{path}.{name}" if path else name
    text = (
        "is a mixture of experts: a router sends each token to some of them, so it has no neurons that act on all "
        "tokens. Capturing and replacing work on the mixture as a whole. "
    )
    single = mlps(model, place, below=place, max_items=1)
    if not single and not is_callable(experts):
        single = [repr(f"{place}.{next(iter(dict(experts.named_children())), 0)}")]
    if single:
        text += f"For a single expert, use its module: `Site(model, {single[0]})` sees the tokens routed to it."
    else:
        weights = ", ".join(name for name, weight in experts.named_parameters() if weight.ndim == 3)
        text += (
            f"The weights of all experts are fused in {place!r} ({weights or 'no matrices'}), so no module is a single "
            "expert. Pass its neurons explicitly: `Site(..., neurons=...)` with a function from the module to the "
            "`Neurons` of one expert."
        )
    parts = [f"{path}.{child}" if path else child for child, _ in module.named_children()]
    shared = [form for part in parts if part != place for form in mlps(model, part, below=part, max_items=1)]
    return f"{text} The MLP {shared[0]} in it, which isn't routed, has neurons." if shared else text
