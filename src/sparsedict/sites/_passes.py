"""Forward passes of a model, and their recomputation by gradient checkpointing in the backward pass."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsedict.sites._embedding import token_embedding
from sparsedict.sites._points import Point, Removable, find_module

End = tuple[Literal["source", "target"], Point]
"""A point that a replacement reads, or a point that it writes."""


class ModelPass:
    """State of one forward pass: number of calls of each point, and replaced positions.

    Args:
        is_whole: Whether the whole model was called, rather than one of its modules.

    Attributes:
        n_calls: Number of times that each point was reached so far.
        kept: Mask of the positions that were replaced at each point; ``None`` if all were.
        checkpointed: Whether a point was reached under gradient checkpointing.
    """

    def __init__(self, *, is_whole: bool = True) -> None:
        self.n_calls: Counter[End] = Counter()
        self.kept: dict[Point, Tensor | None] = {}
        self.checkpointed: bool = False
        self.is_whole = is_whole
        self._with_gradients = torch.is_grad_enabled()

    def reaches(self, end: End, model: nn.Module) -> bool:
        """Counts a call, and returns whether the point selects it.

        Raises:
            CalledAgainError: If a module that should be called once is called again.
        """
        self.checkpointed |= self._with_gradients and _under_checkpoint()
        self.n_calls[end] += 1
        return end[1].is_call(self.n_calls[end] - 1, model)


class Passes:
    """Determines which forward pass a call of a module belongs to.

    Gradient checkpointing calls a module again during the backward pass. Such a call belongs to the forward pass whose
    graph is being differentiated. After a pass with checkpointing, the pass is stored in the metadata of its graph's
    nodes.
    """

    def __init__(self, model: nn.Module, points: Iterable[Point]) -> None:
        self._model, self._points = model, tuple(points)
        self._current: ModelPass | None = None
        self._outermost: nn.Module | None = None
        self._recomputing: tuple[int, ModelPass] | None = None
        self._live: weakref.WeakSet[ModelPass] = weakref.WeakSet()
        self._closed = False
        self._handles: list[Removable] = []
        for whole in {model: None, **dict.fromkeys(_submodels(model, self._points))}:
            self._handles.append(whole.register_forward_pre_hook(self._start))
            self._handles.append(whole.register_forward_hook(self._end, always_call=True))
        embedding = token_embedding(model)
        if embedding is not None and embedding is not model:
            # TransformerLens 3 calls `forward` directly when it runs with hooks, which bypasses the model's hooks.
            self._handles.append(embedding.register_forward_pre_hook(self._start_inside))

    def at(self) -> tuple[ModelPass, bool] | None:
        """Returns the forward pass of the current call, and whether the call is a recomputation.

        Returns ``None`` after `close`, and for the recomputation of an earlier graph.
        """
        node: Any = torch._C._current_autograd_node() if _in_backward() else None
        if node is not None and self._outermost is None:
            recomputed = node.metadata.get(self)
            if recomputed is not None:
                self._recompute(recomputed)
            elif self._recomputing is not None and self._recomputing[0] != torch._C._current_graph_task_id():
                # In a checkpoint inside a reentrant checkpoint, the recomputation has its own graph.
                recomputed = self._recomputing[1]
            return None if recomputed is None else (recomputed, True)
        if self._closed:
            return None
        # If a module is called without the model, every call counts as a separate pass.
        return self._current or ModelPass(is_whole=False), False

    def close(self, handles: Iterable[Removable]) -> None:
        """Ends the passes. Removes ``handles`` as soon as no pass can be recomputed any more."""
        self._closed, self._current = True, None
        for handle in self._handles:
            handle.remove()
        handles = list(handles)

        def release() -> None:
            if not list(self._live):  # `len` would count an item that is being removed.
                for handle in handles:
                    handle.remove()

        for live in self._live:
            weakref.finalize(live, release).atexit = False
        release()

    def _recompute(self, recomputed: ModelPass) -> None:
        if self._recomputing is None:
            torch.autograd.Variable._execution_engine.queue_callback(self._end_recomputation)
        self._recomputing = torch._C._current_graph_task_id(), recomputed

    def _end_recomputation(self) -> None:
        self._recomputing = None

    def _start(self, module: nn.Module, _: object) -> None:
        # In a backward pass, the model is called to recompute an earlier forward pass.
        if _in_backward() or (module is not self._model and self._outermost is not None):
            return
        moved = next((point for point in self._points if not point.is_in(self._model)), None)
        if moved is not None:
            raise RuntimeError(
                f"`{moved.path}` was exchanged for another module inside the context. Leave the context before "
                "exchanging it, and enter it again."
            )
        self._current, self._outermost, self._recomputing = ModelPass(), module, None

    def _start_inside(self, *_: object) -> None:
        if self._outermost is None and not _in_backward():
            self._current = ModelPass()

    def _end(self, module: nn.Module, _: object, output: object) -> None:
        if module is not self._outermost:
            return
        ended, self._current, self._outermost = self._current, None, None
        if ended is None:
            return
        around = None if torch.is_grad_enabled() else _enclosing_node()
        nodes: list[Any] = [] if around is None else [around]
        if ended.checkpointed:
            nodes += [value.grad_fn for value in _tensors(output) if value.grad_fn is not None]
        # The metadata of a node keep the pass alive as long as the graph.
        while nodes:
            node = nodes.pop()
            # Nodes of leaves outlive the graph.
            if self not in node.metadata and not hasattr(node, "variable"):
                node.metadata[self] = ended
                self._live.add(ended)
                nodes += [other for other, _ in node.next_functions if other is not None]


@contextmanager
def uncompiled(model: nn.Module, points: Iterable[Point]) -> Iterator[None]:
    """Context that runs the model eagerly if it is compiled, since compiled code ignores hooks that are added later."""
    modules = [model, *(point.module for point in points), *(find_module(model, p) for p in _paths_above(points))]
    with all_uncompiled() if any(map(_is_compiled, modules)) else nullcontext():
        yield


def all_uncompiled() -> AbstractContextManager[object]:
    """Returns a context that runs all compiled code eagerly, including functions that call a model."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled before its import, which takes a second
        return nullcontext()
    try:
        return torch.compiler.set_stance("force_eager")
    except RuntimeError as error:
        raise RuntimeError(
            "A site can't be replaced inside a compiled function. Enter the context outside of `torch.compile`."
        ) from error


def _is_compiled(module: nn.Module) -> bool:
    """Whether a module is compiled: ``torch.compile(m)``, ``m.compile()`` or ``m.forward = torch.compile(...)``."""
    return (
        type(module).__name__ == "OptimizedModule"
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable")
    )


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _submodels(model: nn.Module, points: Iterable[Point]) -> Iterator[nn.Module]:
    """Yields submodules that take tokens and contain a point, such as a language model without its head."""
    inner, embedding = getattr(model, "original_model", None), token_embedding(model)
    if isinstance(inner, nn.Module):
        yield inner
    for path in _paths_above(points):
        module = find_module(model, path)
        if module is not None and any(child is embedding for child in module.modules()):
            yield module


def _paths_above(points: Iterable[Point]) -> set[str]:
    return {path for point in points for path in accumulate(point.path.split(".")[:-1], "{}.{}".format)}


def _under_checkpoint() -> bool:
    """Whether the current part of a forward pass may be recomputed.

    Reentrant checkpointing disables gradients. Non-reentrant checkpointing sets hooks on saved tensors.
    """
    top = getattr(getattr(torch._C, "_autograd", None), "_top_saved_tensors_default_hooks", None)
    # PyTorch exposes the hooks since version 2.8. In earlier versions, all passes count as checkpointed.
    return not torch.is_grad_enabled() or top is None or top(True) is not None


def _enclosing_node() -> Any | None:
    """Returns the node of the outermost `torch.autograd.Function` whose ``forward`` is running, if any.

    Reentrant checkpointing of the whole model is such a function. Its node calls the model in the backward pass.
    """
    frame, found = sys._getframe(), None
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and code.co_varnames[:1] == ("ctx",):
            first = frame.f_locals.get("ctx")
            found = first if isinstance(first, torch.autograd.function.BackwardCFunction) else found
        frame = frame.f_back
    return found


def _tensors(output: object) -> list[Tensor]:
    leaves = tree_leaves(output)
    leaves += [value for leaf in leaves if hasattr(leaf, "__dict__") for value in tree_leaves(vars(leaf))]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
