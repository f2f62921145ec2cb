"""Tracks the tokens on which the modules of a model are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from sparsedict.sites._arguments import CallTokens, read_call
from sparsedict.sites._context import TokenContext
from sparsedict.sites._embedding import token_embedding

Frames = tuple[CallTokens, ...]
"""The enclosing calls of a module, the outermost first."""


class Watch:
    """The tokens on which modules of a model were last called.

    A module's tokens are those of the innermost enclosing call with tokens or their embeddings. In an encoder-decoder
    model this is the call of the encoder or the decoder, so each has separate ids, masks, positions and caches, even if
    `generate` calls them directly.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._open: list[tuple[CallTokens, frozenset[int]]] = []
        self._embedded: CallTokens | None = None
        self._last: dict[nn.Module, Frames] = {}

    def context(self, module: nn.Module) -> TokenContext:
        """Returns the tokens of the last call of a module. The context is empty if it wasn't called on tokens."""
        return resolve(self._model, module, self._last.get(module, ()))

    def hooks(self, modules: Iterable[nn.Module]) -> Iterator[Any]:
        """Registers the hooks that track these modules, and yields their handles."""
        modules = tuple(dict.fromkeys(modules))
        around = _ancestors(self._model, modules)
        embedding = token_embedding(self._model)
        if embedding is not None and embedding not in around:
            yield embedding.register_forward_pre_hook(self._embed, with_kwargs=True)
        for outer, inner in around.items():
            yield outer.register_forward_pre_hook(self._enter(inner), with_kwargs=True)
            yield outer.register_forward_hook(self._leave, always_call=True)

    def _enter(self, inner: frozenset[nn.Module]) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module is self._model:
                self._open.clear()
                self._embedded = None
            self._open.append((read_call(module, args, kwargs), frozenset(map(id, inner))))
            if module in inner:
                self._note(module)

        return enter

    def _note(self, module: nn.Module) -> None:
        frames = tuple(frame for frame, inner in self._open if id(module) in inner)
        if self._embedded is not None and not any(frame.has_tokens for frame in frames):
            frames = (self._embedded, *frames)
        called = any(frame.module is self._model for frame in frames)
        # A module that is called directly, such as for recomputation in the backward pass, has its earlier tokens.
        if called or module not in self._last or any(frame.has_tokens for frame in frames):
            self._last[module] = frames

    def _leave(self, module: nn.Module, *_: object) -> None:
        while self._open:
            if self._open.pop()[0].module is module:
                return

    def _embed(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Some models bypass the hooks of their outermost module, or use other parameter names for tokens.
        self._embedded = read_call(module, args, kwargs)


def resolve(model: nn.Module, module: nn.Module, frames: Frames) -> TokenContext:
    """Returns the tokens of a module from its enclosing calls."""
    main, decoder, outer = TokenContext(), TokenContext(), None
    for frame in frames:
        if not frame.has_tokens and outer is not None and outer.has_tokens:
            main = _with_mask(main, frame.main)
            continue
        if outer is not None and outer.has_decoder and not frame.has_decoder:
            in_decoder = frame.attends or stack(outer.module, frame.module) == "decoder"
            main, decoder = frame.main.inherit(decoder if in_decoder else main), TokenContext()
        else:
            main, decoder = frame.main.inherit(main), frame.decoder.inherit(decoder)
        outer = frame
    if outer is None or not outer.has_decoder:
        return main
    found = stack(outer.module, module) or stack(model, module)
    if found is not None:
        return decoder if found == "decoder" else main
    return replace(decoder, mask=main.mask if decoder.mask is None else decoder.mask, ambiguous=True)


def _with_mask(context: TokenContext, inner: TokenContext) -> TokenContext:
    """Adds the mask of an inner call. Some models pass the mask to their blocks, separately from the tokens."""
    if context.mask is None and inner.mask is not None and inner.mask.ndim == 2 and inner.mask.shape == context.shape:
        return replace(context, mask=inner.mask)
    return context


def stack(model: nn.Module, module: nn.Module) -> Literal["encoder", "decoder"] | None:
    """Returns the stack of an encoder-decoder model that contains a module; None if neither or both do."""
    inside = [name for name in ("encoder", "decoder") if module in set(stack_modules(model, name))]
    return inside[0] if len(inside) == 1 else None  # pyright: ignore[reportReturnType]


def stack_modules(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """Yields a stack of an encoder-decoder model and its modules; nothing if the model has no module of that name."""
    model = getattr(model, "original_model", model)
    own = getattr(model, name, None)
    getter = getattr(model, f"get_{name}", None)
    if not isinstance(own, nn.Module) and callable(getter):
        own = getter()
    if not isinstance(own, nn.Module):
        # A custom model may hold the stacks a level down, such as one around `torch.nn.Transformer`.
        holders = [module for module in model.modules() if _holds_stacks(module)]
        own = getattr(holders[0], name) if len(holders) == 1 else None
    return own.modules() if isinstance(own, nn.Module) and own is not model else iter(())


def _holds_stacks(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Module) for name in ("encoder", "decoder"))


def _ancestors(model: nn.Module, modules: tuple[nn.Module, ...]) -> dict[nn.Module, frozenset[nn.Module]]:
    """Returns each module that is or contains one of ``modules``, with those that it contains."""
    parents: dict[nn.Module, list[nn.Module]] = {}
    for parent in model.modules():
        for child in parent.children():
            parents.setdefault(child, []).append(parent)
    held: dict[nn.Module, set[nn.Module]] = {model: set(modules)}
    for module in modules:
        waiting, seen = [module], set[nn.Module]()
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                held.setdefault(current, set()).add(module)
                waiting += parents.get(current, ())
    return {outer: frozenset(inner) for outer, inner in held.items()}


@contextmanager
def watched(model: nn.Module, modules: Iterable[nn.Module]) -> Iterator[Watch]:
    """Context that tracks the tokens on which some modules of a model are called."""
    watch = Watch(model)
    handles = list(watch.hooks(modules))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()
