"""State that an activation keeps in a dictionary."""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from torch import Tensor, nn

from sparsedict.activations import Activation
from sparsedict.latents import per_entry


class ActivationState(nn.Module):
    """State of an activation in one dictionary: learned parameters and measured buffers, by name."""

    def __init__(
        self, activation: Activation, n_latents: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        for name, value in activation.initial_state(n_latents).items():
            moved = value.detach().to(device=device, dtype=dtype if value.is_floating_point() else None)
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, nn.Parameter(moved))
            else:
                self.register_buffer(name, moved)

        for name, value in activation.training_state(n_latents).items():
            # Files don't hold this state, so a dictionary on the meta device keeps its values for loading.
            is_meta = device is not None and torch.device(device).type == "meta"
            self.register_buffer(name, value if is_meta else value.to(device=device), persistent=False)

    def training_state(self) -> dict[str, Tensor]:
        """Returns the state that is used in training only, and not saved."""
        return {name: value for name, value in self.named_buffers() if name in self._non_persistent_buffers_set}

    def entries(self, latents: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the state by name: whole, or gathered at the latents of stored entries."""
        state = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return state if latents is None else {name: per_entry(value, latents) for name, value in state.items()}


def initial_state(
    activation: Activation, n_latents: int, like: Tensor, given: Mapping[str, Tensor | float]
) -> dict[str, Tensor]:
    """Returns the state of an activation: the given values, and those of a new dictionary for the others.

    Args:
        activation: The activation.
        n_latents: Number of latents.
        like: A weight of the dictionary, for device and dtype.
        given: Values by name. A number applies to all latents.

    Raises:
        ValueError: If the activation has no state of this name or shape.
    """
    state = {name: value.detach().to(like.device) for name, value in activation.initial_state(n_latents).items()}
    unknown = sorted(given.keys() - state.keys())
    if unknown:
        has = f"contain {', '.join(state)}" if state else "be left out"
        raise ValueError(f"`activation_state` must {has} for {activation!r}, got {', '.join(map(repr, unknown))}.")
    for name, value in given.items():
        tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device).detach()
        shape = state[name].shape
        # A threshold of zero has the logarithm minus infinity, and an unmeasured threshold is NaN.
        is_valid_shape = tensor.shape in (shape, torch.Size(()))
        if not is_valid_shape or bool(((tensor.isnan() & ~state[name].isnan()) | (tensor == torch.inf)).any()):
            raise ValueError(
                f"`activation_state` must contain {name!r} of shape {list(shape)}, or one number, neither NaN nor "
                f"infinite, got shape {list(tensor.shape)}."
            )
        state[name] = tensor.expand(shape).clone()
    return {name: value.to(like.dtype) if value.is_floating_point() else value for name, value in state.items()}


def check_is_given(activation: Activation, n_latents: int, given: Container[str]) -> None:
    """Checks that given weights come with the state of their activation.

    A state of NaN isn't required. It stands for a value that training measures, and that evaluation requires.

    Raises:
        ValueError: If neither the arguments of the activation nor ``given`` determine a value.
    """
    state = {} if activation.gives_state else activation.initial_state(n_latents)
    missing = [name for name, value in state.items() if name not in given and not bool(value.isnan().all())]
    if missing:
        shapes = {str(list(state[name].shape)) for name in missing}
        raise ValueError(
            f"`activation_state` must contain {', '.join(map(repr, missing))} for {activation!r}, because weights "
            f"don't determine {'it' if len(missing) == 1 else 'them'}. Pass `activation_state=` with a tensor of shape "
            f"{' or '.join(sorted(shapes))}, or one number, for each name."
        )
