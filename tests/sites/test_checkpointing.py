"""Gradient checkpointing: gradients through a replaced site equal those without it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparsedict.activations import TopK
from sparsedict.dictionaries import SparseDistiller
from sparsedict.norms import Free
from sparsedict.sites import Site

from . import _models
from .test_site import n_hooks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable. is deprecated"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
]

Gradients = dict[str, Tensor]


def student() -> SparseDistiller:
    torch.manual_seed(0)
    distiller = SparseDistiller(_models.WIDTH, _models.WIDTH, 32, activation=TopK(4), decoder_norm=Free(), skip=True)
    torch.nn.init.normal_(distiller.skip, std=0.1)
    return distiller


def llama(reentrant: bool | None) -> nn.Module:
    model = _models.hugging_face("llama", use_cache=False).train()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})  # pyright: ignore[reportCallIssue]
    return model


def gradients(model: nn.Module, dictionary: nn.Module) -> Gradients:
    named = {**dict(model.named_parameters()), **{f"dictionary.{n}": p for n, p in dictionary.named_parameters()}}
    return {name: p.grad.clone() for name, p in named.items() if p.grad is not None}


def assert_same(given: Gradients, expected: Gradients) -> None:
    assert given.keys() == expected.keys()
    assert any(name.startswith("dictionary.") for name in expected)
    for name, value in expected.items():
        torch.testing.assert_close(given[name], value, msg=name)


def loss(logits: Tensor) -> Tensor:
    return logits.logsumexp(-1).square().mean()


def ids(seed: int = 0) -> Tensor:
    drawn = torch.randint(3, _models.VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(seed))
    drawn[0, 4] = drawn[2, 7 - seed] = 1
    return drawn


@pytest.mark.parametrize(
    ("exclusion", "error_term", "leave_first"),
    # Positions are excluded by the same mask, whether or not the context has been left.
    [
        ({}, False, False),
        ({}, False, True),
        ({"exclude_tokens": [1]}, True, True),
        ({"exclude_first": 2}, False, False),
    ],
)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_are_those_without_checkpointing(
    reentrant: bool, exclusion: dict[str, Any], error_term: bool, leave_first: bool
) -> None:
    found = []
    for kind in (None, reentrant):
        model, dictionary = llama(kind), student()
        n_before = n_hooks(model)
        site = Site(model, "model.layers.1.mlp", **exclusion)
        ablate = None if not error_term else (lambda latents: 0.5 * latents)
        with site.replaced(dictionary, error_term=error_term, intervention=ablate):
            value = loss(site.logits(ids()))
            if not leave_first:
                value.backward()
        if leave_first:
            value.backward()
        found.append(gradients(model, dictionary))
        del value
        gc.collect()
        assert n_hooks(model) == n_before
    assert_same(found[1], found[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_each_graph_is_recomputed_as_it_was_run(reentrant: bool) -> None:
    """Several graphs wait for one backward pass: of other tokens, of another replacement and of none."""
    found = []
    for kind in (None, reentrant):
        model, dictionary, other = llama(kind), student(), student()
        with torch.no_grad():
            other.decoder.mul_(-1)
        site = Site(model, "model.layers.1.mlp", exclude_tokens=[1])
        second = Site(model, "model.layers.0.mlp", exclude_first=3)
        values = [loss(site.logits(ids()))]
        with site.replaced(dictionary):
            values += [loss(site.logits(ids(seed))) for seed in (0, 1)]
            with second.replaced(other):
                values.append(2 * loss(site.logits(ids(1))))
        values.append(loss(site.logits(ids(1))))
        with site.replaced(other):
            values.append(3 * loss(site.logits(ids(1))))
            torch.stack(values).sum().backward()
        found.append({**gradients(model, dictionary), **{f"o.{n}": p.grad for n, p in other.named_parameters()}})
    assert_same(found[1], found[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_steps_inside_one_context(reentrant: bool) -> None:
    found = []
    for kind in (None, reentrant):
        model, dictionary = llama(kind), student()
        optimizer = torch.optim.SGD(dictionary.parameters(), lr=0.1)
        site = Site(model, "model.layers.1.mlp", exclude_tokens=[1])
        with site.replaced(dictionary):
            for seed in range(4):
                optimizer.zero_grad()
                loss(site.logits(ids(seed))).backward()
                optimizer.step()
        found.append({f"dictionary.{name}": p.detach() for name, p in dictionary.named_parameters()})
    assert_same(found[1], found[0])


class Checkpointed(_models.Plain):
    """A model that checkpoints a part of itself by hand."""

    def __init__(self, part: Callable[[_models.Plain, Tensor], Tensor], reentrant: bool | None) -> None:
        super().__init__()
        self.part, self.reentrant = part, reentrant

    def forward(self, ids: Tensor) -> Tensor:
        x = self.first(self.embedding(ids))
        x = (
            self.part(self, x)
            if self.reentrant is None
            else checkpoint(self.part, self, x, use_reentrant=self.reentrant)
        )
        return self.head(x)


PARTS: dict[str, Callable[[_models.Plain, Tensor], Tensor]] = {
    "the MLP alone": lambda model, x: model.mlp(x),
    "a function around it": lambda model, x: x + model.mlp(model.last(x)),
    "inside another": lambda model, x: checkpoint(lambda y: y + model.mlp(y), model.last(x), use_reentrant=False),
    "inside a reentrant": lambda model, x: checkpoint(lambda y: y + model.mlp(y), model.last(x), use_reentrant=True),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_any_part_may_be_checkpointed(reentrant: bool, part: str) -> None:
    found = []
    for kind in (None, reentrant):
        model, dictionary = Checkpointed(PARTS[part], kind), student()
        site = Site(model, "mlp", exclude_tokens=[1])
        with site.replaced(dictionary):
            value = loss(model(ids()))
        value.backward()
        found.append(gradients(model, dictionary))
    assert_same(found[1], found[0])


@pytest.mark.parametrize("when", ["inside", "afterwards", "inside another"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_the_whole_model_may_be_checkpointed(reentrant: bool, when: str) -> None:
    found = []
    for kind in (None, reentrant):
        model, dictionary, other = llama(None), student(), student()
        n_before = n_hooks(model)
        with torch.no_grad():
            other.decoder.mul_(-1)
        site = Site(model, "model.layers.1.mlp", exclude_tokens=[1])

        def run(kind: bool | None = kind, model: nn.Module = model) -> Tensor:
            if kind is None:
                return loss(model(ids()).logits)
            scale = torch.ones((), requires_grad=True)  # Reentrant checkpointing needs an input with a gradient.
            return loss(checkpoint(lambda tokens, _: model(tokens).logits, ids(), scale, use_reentrant=kind))

        value = run()  # Not replaced, whatever is replaced when it is recomputed.
        with site.replaced(dictionary):
            value = value + run()
            if when == "inside":
                value.backward()
        if when == "inside another":
            with pytest.warns(RuntimeWarning, match="Nothing was replaced"), site.replaced(other):
                value.backward()
        elif when == "afterwards":
            value.backward()
        found.append(gradients(model, dictionary))
        assert not gradients(nn.Module(), other)
        del value
        gc.collect()
        assert n_hooks(model) == n_before
    assert_same(found[1], found[0])


def test_hooks_leave_when_the_graph_does() -> None:
    model, dictionary = llama(False), student()
    n_before = n_hooks(model)
    site = Site(model, "model.layers.1.mlp")
    with site.replaced(dictionary):
        value = loss(site.logits(ids()))
    assert n_hooks(model) > n_before
    with torch.no_grad():
        plain = site.logits(ids())
        assert torch.equal(plain, llama(None)(ids()).logits)
    del value
    gc.collect()
    assert n_hooks(model) == n_before
    with site.replaced(dictionary), torch.no_grad():
        site.logits(ids())
    assert n_hooks(model) == n_before


@contextmanager
def raising() -> Iterator[None]:
    with pytest.raises(RuntimeError, match="Disable checkpointing while the site is replaced"):
        yield


@pytest.mark.parametrize("reentrant", [False, True])
def test_points_that_are_recomputed_apart_raise(reentrant: bool) -> None:
    model, dictionary = llama(reentrant), student()
    site = Site(model, reads="model.layers.0.mlp:in", writes="model.layers.1.mlp:out")
    with site.replaced(dictionary), raising():
        loss(site.logits(ids())).backward()


def test_a_loop_under_checkpointing_raises() -> None:
    def twice(model: _models.Plain, x: Tensor) -> Tensor:
        return x + model.mlp(x + model.mlp(x))

    model, dictionary = Checkpointed(twice, False), student()
    site = Site(model, "mlp", call=1)
    with site.replaced(dictionary), raising():
        loss(model(ids())).backward()


def test_several_sites_of_one_checkpointed_model() -> None:
    found = []
    for kind in (None, True):
        model, dictionary = llama(kind), student()
        with ExitStack() as stack:
            for layer in range(3):
                site = Site(model, f"model.layers.{layer}.mlp", exclude_first=layer)
                stack.enter_context(site.replaced(dictionary, error_term=layer == 1))
            value = loss(model(ids()).logits)
        value.backward()
        found.append(gradients(model, dictionary))
    assert_same(found[1], found[0])


def test_capture_of_a_checkpointed_model() -> None:
    model = llama(True)
    site = Site(model, "model.layers.1.mlp", exclude_tokens=[1])
    expected = Site(llama(None), "model.layers.1.mlp").capture(ids())
    given = site.capture(ids(), neurons=True)
    torch.testing.assert_close(given.outputs, expected.outputs)
    assert int((~given.mask).sum()) == 2
