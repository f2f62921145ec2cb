"""Saving, uploading and printing of dictionaries, which are described by the arguments of their constructor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor

from sparsedict import checks, hub
from sparsedict.activations import Activation
from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.storage import Description, Named, check_finite, write_dictionary


class Storable(EncoderDecoder):
    """The part of :class:`Dictionary` that saves it.

    A file contains the weights and the arguments of the constructor. A kind with other arguments overrides
    :meth:`arguments`.
    """

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments without activation and decoder norm, by which `sd.load` calls it."""
        return {"d_in": self.d_in, "d_out": self.d_out, "n_latents": self.n_latents}

    @classmethod
    def for_subset(cls, n_latents: Any, activation: Activation, latents: Sequence[int]) -> tuple[Any, Activation]:
        """Returns two arguments of the constructor for a dictionary of some latents, such as ``sd.load`` makes.

        Args:
            n_latents: The argument ``n_latents`` of the whole dictionary.
            activation: Its activation.
            latents: The chosen latents, in their order.

        Returns:
            Those of the smaller dictionary.

        Raises:
            ValueError: If no dictionary can be made of these latents.
        """
        return len(latents), activation.for_subset(len(latents))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the dictionary to a folder: ``dictionary.safetensors`` and ``dictionary.json``, never pickle.

        A dictionary that the folder already holds is replaced atomically: after an interrupted save, the folder holds
        either the old or the new one. :func:`sparsedict.load` reads the folder.

        Args:
            path: The folder. It is created if it doesn't exist.

        Raises:
            TypeError: If a part has a field that JSON can't represent, such as a tensor.
            ValueError: If a weight is NaN or infinite. `sd.load` doesn't accept such files.
            NotADirectoryError: If the path is a file.
        """
        check_finite(dict(self.named_parameters()), "This dictionary")
        write_dictionary(checks.path("path", path, "a folder"), self._description(), self.state_dict())

    def push_to_hub(
        self,
        repository: str,
        *,
        metrics: Mapping[str, Any] | hub.HasMetrics | None = None,
        figures: Mapping[str, str | os.PathLike[str] | hub.SavableFigure] | None = None,
        license: str | None = None,
        private: bool = False,
        message: str | None = None,
    ) -> str:
        """Uploads the dictionary with a model card to the Hugging Face hub, in one commit.

        The card describes the dictionary, its training run and its metrics. ``sd.load("hf://owner/repository")`` loads
        the dictionary. This method needs ``huggingface_hub`` (the extra ``hf``) and its login.

        Args:
            repository: ``"owner/repository"``, created if it doesn't exist, or ``"owner/repository@branch/path"`` for a
                branch or a subfolder.
            metrics: Numbers for the card: the result of ``sd.evaluate``, or a mapping by name.
            figures: Figures for the card by caption: image files, or matplotlib figures.
            license: The hub's identifier of the license, such as ``"mit"``.
            private: Whether a newly created repository is private.
            message: The commit message.

        Returns:
            The address of the commit's page.

        Raises:
            ImportError: If ``huggingface_hub`` isn't installed.
            PermissionError: If the login has no write access to the repository.
            ConnectionError: If the hub can't be reached.
        """
        card = {"metrics": metrics, "figures": figures, "license": license}
        return hub.upload(self.save, self._description(), repository, **card, private=private, message=message)

    def _description(self) -> Description:
        arguments = self.arguments()
        others = {role: value for role, value in arguments.items() if is_dataclass(value)}
        parts = {"activation": self.activation, "decoder_norm": self.decoder_norm, **others}
        return Description(
            kind=Named.from_class(type(self), {name: value for name, value in arguments.items() if name not in others}),
            parts={role: Named.from_part(part) for role, part in parts.items()},
            widths=self._widths(),
            dtype=str(self.encoder_bias.dtype).removeprefix("torch."),
            trained_on=dict(self.trained_on),
        )

    def _widths(self) -> dict[str, int]:
        return {"d_in": self.d_in, "d_out": self.d_out, "n_latents": self.n_latents}

    def __repr__(self) -> str:
        # `extra_repr` already shows the activation's state.
        if set(self._modules) == {"activation_state"}:
            return f"{type(self).__name__}({self.extra_repr()})"
        return "\n".join(line for line in super().__repr__().split("\n") if "(activation_state): " not in line)

    def extra_repr(self) -> str:
        parts = {"activation": self.activation, "decoder_norm": self.decoder_norm}
        return _summary(self._widths() | parts | self.arguments(), self.activation_state.state_dict())


def _summary(arguments: Mapping[str, Any], learned: Mapping[str, Tensor]) -> str:
    """Returns arguments by name, except ``None`` and ``False``, and the ranges of learned values."""
    shown = ", ".join(
        f"{name}={value}" for name, value in arguments.items() if value is not None and value is not False
    )
    return "; ".join([shown, *(_range(name, value) for name, value in learned.items())])


def _range(name: str, value: Tensor) -> str:
    """Returns the range of an activation's learned values, after the exponential if they are logarithms."""
    if value.is_meta or not value.numel():
        return name
    wide = value.double().exp() if name.startswith("log_") else value.double()
    low, high = float(wide.min()), float(wide.max())
    return f"{name.removeprefix('log_')} {low:.3g}" + (f" to {high:.3g}" if low < high else "")
