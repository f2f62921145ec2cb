"""Cases of sharded dictionaries. Each compares this rank's part with a whole dictionary in the same process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

import cases as all_cases
import sparsedict as sd
from sharding._fits import fits
from sparsedict.dictionaries import gather_, shard_
from sparsedict.latents import SparseLatents
from sparsedict.sharding import Peers, Traffic

Case = Callable[[Peers], None]
N_STEPS = 3
SQUARED_ERROR = sd.SquaredError()


class SkippedError(Exception):
    """The case isn't defined for this number of ranks."""


def cases(n_ranks: int) -> Iterator[tuple[str, Case]]:
    """Yields names and cases for a number of ranks."""
    pairs = all_cases.PAIRS if n_ranks == 2 else all_cases.PAIRS[::5]
    for kind, activation in pairs:
        if activation != "group_max":
            yield f"trains {kind} {activation}", partial(_trains, partial(all_cases.make, kind, activation))
    yield from fits(n_ranks)
    yield "trains group_max", partial(_trains, _groups)
    for name in TIES:
        yield f"ties {name}", partial(_ties, name)
    if n_ranks != 2:
        return
    for name, case in all_cases.PENALTIES.items():
        make = partial(all_cases.make, "autoencoder", case.activations[0])
        yield f"penalty {name}", partial(_trains, make, penalty=case.penalty)
    for name, activation in (("top_k", "top_k"), ("abs_top_k", "abs_top_k"), ("layers", "jump_relu")):
        make = partial(all_cases.make, "cross_layer_skip" if name == "layers" else "autoencoder", activation)
        for n_dead in (1, 5, 12):
            penalty = sd.AuxK(k=3, dead_after=1)
            yield f"auxk {name} {n_dead} dead", partial(_trains, make, penalty=penalty, n_dead=n_dead)
    for detached in (False, True):
        loss = sd.Nested((2, 5), detached=detached)
        for kind in ("autoencoder", "cross_layer"):
            make = partial(all_cases.make, kind, "batch_top_k")
            yield f"nested {kind} {detached}", partial(_trains, make, loss=loss)
    yield "inputs with gradient", _inputs_with_gradient
    yield "collectives of top_k", partial(_collectives, sd.TopK(4), 4)
    yield "collectives of batch_top_k", partial(_collectives, sd.BatchTopK(4), 4)
    yield "collectives of jump_relu", partial(_collectives, sd.JumpReLU(), 0)
    yield "memory", _memory


def _groups() -> sd.Dictionary:
    parts = {"activation": sd.GroupMax(4), "decoder_norm": sd.Free(), "dtype": torch.float64}
    return sd.SparseAutoencoder(all_cases.D_IN, 16, generator=torch.Generator().manual_seed(0), **parts)


def _trains(
    make: Callable[[], sd.Dictionary],
    peers: Peers,
    *,
    penalty: sd.Penalty | None = None,
    loss: sd.Loss = SQUARED_ERROR,
    n_dead: int = 0,
) -> None:
    """A sharded dictionary has the selection, loss curve and weights of a whole one."""
    whole, own = make(), make()
    try:
        shard_(own, peers)
    except ValueError as error:
        if "leave a latent" not in str(error):
            raise
        raise SkippedError from error
    curves = []
    fired = []
    for dictionary in (whole, own):
        curve, selected = _train(dictionary, copy.deepcopy(penalty), loss, n_dead)
        curves.append(curve)
        fired.append(selected)
    assert own.shard is not None
    for expected, found in zip(*fired, strict=True):
        assert torch.equal(expected[:, own.shard.latents], found), "the selection differs"
    assert torch.allclose(*curves, rtol=1e-10, atol=1e-10), f"the losses are {curves}"
    gather_(own)
    assert own.activation == whole.activation
    for (name, expected), found in zip(whole.state_dict().items(), own.state_dict().values(), strict=True):
        close = torch.allclose(expected, found, rtol=1e-10, atol=1e-10, equal_nan=True)
        assert close, f"{name} differs by {(expected - found).abs().max()}"


def _train(
    dictionary: sd.Dictionary, penalty: sd.Penalty | None, loss: sd.Loss, n_dead: int
) -> tuple[Tensor, list[Tensor]]:
    """Returns the losses and the selections of some steps."""
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=1e-2)
    dictionary.train()
    shard = dictionary.shard
    losses, fired = [], []
    for step in range(N_STEPS):
        x = all_cases.tokens(16, seed=step)
        targets = torch.randn(16, dictionary.d_out, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        since = (torch.arange(all_cases.N_LATENTS) < n_dead).long()
        since = since if shard is None or n_dead == 0 else shard.rows(since)
        out = dictionary.forward_pass(
            x, targets, step=step, n_steps=N_STEPS, tokens_since_fired=since if n_dead else None
        )
        objective = loss(out) + (0.0 if penalty is None else penalty(out))
        optimizer.zero_grad()
        objective.backward()
        if shard is not None:
            shard.finish_gradients_()
        dictionary.project_decoder_gradient_()
        optimizer.step()
        dictionary.constrain_decoder_()
        gather = None
        if shard is not None and dictionary.activation.is_measured:
            gather = partial(_gathered, shard.peers)
        encoding = replace(out.encoding, gather=gather)
        with torch.no_grad():
            dictionary.activation.measure_encoding_(encoding, dictionary.activation_state.entries(), step=step)
            if penalty is not None:
                penalty.after_step_(out)
        losses.append(objective.detach())
        fired.append(_dense(out) != 0)
    return torch.stack(losses), fired


def _gathered(peers: Peers, values: Tensor) -> Tensor:
    """Returns the measured numbers of all ranks. A rank without active latents has none."""
    padded = values.new_zeros(max(len(values), 1))
    padded[: len(values)] = values
    return peers.gather(padded).flatten()


def _dense(out: sd.ForwardPass) -> Tensor:
    latents = out.encoding.latents()
    return latents.to_dense() if isinstance(latents, SparseLatents) else latents


TIES: dict[str, Callable[[], sd.Dictionary]] = {}


def _integers(make: Callable[..., sd.Dictionary], activation: sd.Activation) -> sd.Dictionary:
    """Returns a dictionary whose pre-activations are small integers, so that many are equal."""
    dictionary = make(activation=activation, decoder_norm=sd.Free(), dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in dictionary.parameters():
            weight.copy_(torch.randint(-1, 2, weight.shape, generator=generator))
        dictionary.decoder_bias.zero_()
        for name, buffer in dictionary.named_buffers():
            if "threshold" in name:
                buffer.fill_(2.0)
    return dictionary


def _add_ties() -> None:
    autoencoder = partial(sd.SparseAutoencoder, 6, 48)
    layers = partial(sd.CrossLayerDistiller, {"0": (3, 2), "1": (3, 2)}, (24, 16))
    for kind, make in (("autoencoder", autoencoder), ("layers", layers)):
        for k in (2, 5, 13):
            for activation in (sd.TopK(k), sd.AbsTopK(k), sd.BatchTopK(k), sd.BatchTopK(k - 0.5)):
                TIES[f"{kind} {activation}"] = partial(_integers, make, activation)
    for activation in (sd.TopK(3), sd.BatchTopK(3), sd.AbsTopK(3)):
        TIES[f"layers per layer {activation}"] = partial(_integers, layers, sd.PerLayer(activation))


_add_ties()


def _ties(name: str, peers: Peers) -> None:
    """Ties between latents of different ranks are resolved as in one process, in training and in evaluation."""
    whole, own = TIES[name](), TIES[name]()
    x = torch.randint(-2, 3, (40, 6), generator=torch.Generator().manual_seed(5)).double()
    shard_(own, peers)
    assert own.shard is not None
    for training in (True, False):
        targets = torch.zeros(40, whole.d_out).double()
        outs = [dictionary.train(training).forward_pass(x, targets) for dictionary in (whole, own)]
        expected, found = map(_dense, outs)
        assert torch.equal(expected[:, own.shard.latents], found), f"training={training}"
        assert torch.equal(outs[0].reconstruction, outs[1].reconstruction)


def _inputs_with_gradient(peers: Peers) -> None:
    """The gradient reaches inputs of the dictionary, as in a loss on the predictions of a model."""
    gradients = []
    for sharded in (False, True):
        dictionary = all_cases.make("distiller_bias_skip", "top_k")
        if sharded:
            shard_(dictionary, peers)
        x = all_cases.tokens(8).requires_grad_()
        dictionary.forward_pass(x, torch.zeros(8, dictionary.d_out).double()).reconstruction.square().sum().backward()
        gradients.append(x.grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-10), gradients


def _collectives(activation: sd.Activation, k: int, peers: Peers) -> None:
    """A step sends the candidates and the reconstruction, and never pre-activations."""
    n_tokens, d, n_latents = 32, 6, 256
    sae = sd.SparseAutoencoder(d, n_latents, activation=activation, decoder_norm=sd.UnitNorm())
    shard_(sae, peers)
    assert sae.shard is not None
    x = torch.randn(n_tokens, d, generator=torch.Generator().manual_seed(0))
    with Traffic() as traffic:
        out = sae.train().forward_pass(x, x)
        sd.SquaredError()(out).backward()
        sae.shard.finish_gradients_()
    names = [own.name for own in traffic.collectives]
    sizes = sorted(own.n_bytes for own in traffic.collectives)
    expected = [4 * n_tokens * d, 4 * d] + ([4 * n_tokens * k] if k else [])
    assert sizes == sorted(expected), traffic.collectives
    assert sum("gather" in name for name in names) == (1 if k else 0), names
    assert all(own.n_bytes < 4 * n_tokens * n_latents // peers.size for own in traffic.collectives)


def _memory(peers: Peers) -> None:
    """Each rank holds its share of the rows, of their gradients and of the optimiser's state."""
    sae = sd.SparseAutoencoder(8, 64, activation=sd.JumpReLU(), decoder_norm=sd.UnitNorm())
    n_all = sum(p.numel() for p in sae.parameters())
    shard_(sae, peers)
    optimizer = torch.optim.Adam(sae.parameters())
    sae.train().forward_pass(torch.randn(4, 8), torch.randn(4, 8)).reconstruction.sum().backward()
    optimizer.step()
    n_held = sum(p.numel() for p in sae.parameters())
    n_moments = sum(v.numel() for state in optimizer.state.values() for v in state.values() if v.ndim)
    assert n_held == (n_all - 8) // peers.size + 8
    assert n_moments == 2 * n_held, (n_moments, n_held)
