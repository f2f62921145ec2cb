from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cases
import sparsedict as sd

DEAD = torch.tensor([1, 4, 8])
IDLE = torch.zeros(cases.N_LATENTS, dtype=torch.int64).index_fill_(0, DEAD, 100)
LIVE = IDLE == 0


def pass_with(tokens_since_fired: Tensor, kind: str = "autoencoder", activation: str = "top_1") -> sd.ForwardPass:
    dictionary = cases.make(kind, activation).train()
    x = cases.tokens(9)
    targets = torch.randn(9, dictionary.d_out, dtype=torch.float64)
    return dictionary.forward_pass(x, targets, tokens_since_fired=tokens_since_fired)


def gradients(penalty: sd.AuxK, out: sd.ForwardPass) -> dict[str, Tensor]:
    named = dict(out.dictionary.named_parameters())
    found = torch.autograd.grad(penalty(out), list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if gradient is None else gradient
        for (name, weight), gradient in zip(named.items(), found, strict=True)
    }


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize(("k", "slope"), [(1, 0.0), (2, 1.0), (3, 0.0), (7, 0.5)])
def test_value_and_gradient_follow_the_formula(kind: str, k: int, slope: float) -> None:
    out = pass_with(IDLE, kind)
    dictionary, penalty = out.dictionary, sd.AuxK(k=k, dead_after=100, coefficient=0.5, slope=slope)
    weights = {name: value.detach().clone().requires_grad_() for name, value in dictionary.named_parameters()}
    case, buffers = cases.KINDS[kind], dict(dictionary.named_buffers())
    # The offset that all latents share is held constant.
    held = weights | {name: weights[name].detach() for name in ("decoder_bias", "input_bias") if name in weights}
    pre = case.pre_activations(held | buffers, out.inputs)[:, DEAD]
    bound = pre.sort(dim=-1, descending=True).values[:, min(k, len(DEAD)) - 1 :][:, :1]
    leaky = torch.nn.functional.leaky_relu(pre, slope)
    latents = torch.where(pre >= bound, pre.relu().detach() + leaky - leaky.detach(), torch.zeros_like(pre))
    missing = (out.targets - out.reconstruction).detach()
    spread = torch.zeros(9, cases.N_LATENTS, dtype=torch.float64).index_copy(1, DEAD, latents)
    whole = [case.output(weights | buffers, part, out.inputs) for part in (spread, torch.zeros_like(spread))]
    wanted = 0.5 * (missing - (whole[0] - whole[1])).square().sum() / 9
    assert wanted > 0
    assert latents.any()
    torch.testing.assert_close(penalty(out), wanted)
    wanted.backward()
    for name, gradient in gradients(penalty, out).items():
        reference = weights[name].grad
        torch.testing.assert_close(gradient, torch.zeros_like(gradient) if reference is None else reference)


def rows_of_latents(kind: str) -> dict[str, slice]:
    """Returns the latents that the rows of each weight belong to."""
    everything = slice(0, cases.N_LATENTS)
    if not isinstance(cases.KINDS[kind], cases.CrossLayerCase):
        return dict.fromkeys(("encoder", "encoder_bias", "decoder"), everything)
    layers = {"0": slice(0, 7), "1": slice(7, 12)}
    matrices = {f"{name}_{layer}": rows for layer, rows in layers.items() for name in ("encoder", "decoder")}
    return matrices | {"encoder_bias": everything}


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("activation", ["relu", "top_k", "batch_top_k", "jump_relu"])
def test_the_gradient_reaches_dead_latents_alone(kind: str, activation: str) -> None:
    found = gradients(sd.AuxK(k=5, dead_after=100), pass_with(IDLE, kind, activation))
    for name, rows in rows_of_latents(kind).items():
        gradient = found.pop(name)
        assert not gradient[LIVE[rows]].any(), name
        assert gradient[~LIVE[rows]].any(), name
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("kind", cases.KINDS)
def test_a_slope_trains_latents_whose_pre_activations_are_negative(kind: str) -> None:
    out = pass_with(IDLE, kind)
    with torch.no_grad():
        out.dictionary.encoder_bias[DEAD] = -100.0
    found = {slope: gradients(sd.AuxK(dead_after=100, slope=slope), out)["encoder_bias"] for slope in (0.0, 1.0)}
    assert not found[0.0].any()
    assert found[1.0][DEAD].all()


@pytest.mark.parametrize("kind", cases.KINDS)
def test_without_dead_latents_there_is_nothing(kind: str) -> None:
    penalty = sd.AuxK(dead_after=101)
    out = pass_with(IDLE, kind)
    assert penalty(out).item() == 0
    assert not any(gradient.any() for gradient in gradients(penalty, out).values())


def test_latents_that_have_just_been_made_are_not_dead() -> None:
    dictionary = cases.make().train()
    out = dictionary.forward_pass(cases.tokens(9), torch.ones(9, cases.D_OUT, dtype=torch.float64))
    assert sd.AuxK(dead_after=1)(out).item() == 0


def test_all_latents_may_be_dead() -> None:
    out = pass_with(torch.full((cases.N_LATENTS,), 10**9))
    assert gradients(sd.AuxK(k=cases.N_LATENTS), out)["encoder"].any(dim=-1).all()


@pytest.mark.parametrize(
    ("activation", "k"), [("relu", cases.D_OUT // 2), ("top_1", 2), ("batch_top_k", min(cases.D_OUT // 2, 6))]
)
def test_k_defaults_to_half_the_width_or_twice_the_active_latents(activation: str, k: int) -> None:
    out = pass_with(torch.full((cases.N_LATENTS,), 100), "distiller", activation)
    torch.testing.assert_close(sd.AuxK(dead_after=100)(out), sd.AuxK(k, dead_after=100)(out))
    assert sd.AuxK(dead_after=100)(out) != sd.AuxK(k - 1, dead_after=100)(out)


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        sd.AuxK(0)
    with pytest.raises(ValueError, match="`dead_after` must be at least 1, got 0"):
        sd.AuxK(dead_after=0)
    with pytest.raises(ValueError, match=r"`coefficient` must lie in \[0\.0, inf\), got -1"):
        sd.AuxK(coefficient=-1)
    with pytest.raises(ValueError, match=r"`slope` must lie in \[0\.0, 1\.0\], got 1\.5"):
        sd.AuxK(slope=1.5)


class Normalising(sd.Dictionary):
    """Reads each token over its length, and multiplies its output by it."""

    reads = writes = "outputs"

    def pre_activations(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True) @ self.encoder.T + self.encoder_bias

    def decode(self, latents: Tensor | sd.SparseLatents) -> Tensor:
        return sd.kernels.matmul(latents, self.decoder) + self.decoder_bias

    def reconstruct(self, latents: Tensor | sd.SparseLatents, inputs: Tensor) -> Tensor:
        return self.decode(latents) * inputs.norm(dim=-1, keepdim=True)


def test_the_contribution_of_dead_latents_has_the_scale_of_the_output() -> None:
    dictionary = Normalising(6, 6, 8, activation=sd.TopK(2), decoder_norm=sd.UnitNorm()).double()
    with torch.no_grad():
        dictionary.decoder_bias.fill_(0.5)
    x = 5 * torch.randn(9, 6, dtype=torch.float64)
    out = dictionary.forward_pass(x, x, tokens_since_fired=torch.full((8,), 100))
    latents = dictionary.pre_activations(x).relu()
    added = latents @ dictionary.decoder * x.norm(dim=-1, keepdim=True)
    wanted = (x - out.reconstruction - added).square().sum(-1).mean()
    torch.testing.assert_close(sd.AuxK(8, 100, 1.0)(out), wanted)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_dead_latents_of_either_sign_are_used(affine: bool, k: int) -> None:
    """Turning the signs of latents changes nothing where latents may be negative."""
    found = []
    signs = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)[:, None]
    x = 5 * torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sign in (torch.ones_like(signs), signs):
        kwargs = {"activation": sd.AbsTopK(2), "decoder_norm": sd.UnitNorm()}
        generator = torch.Generator().manual_seed(0)
        dictionary = (
            sd.SparseAutoencoder(6, 8, **kwargs, generator=generator)
            if affine
            else Normalising(6, 6, 8, **kwargs, generator=generator)
        ).double()
        with torch.no_grad():
            dictionary.encoder.mul_(sign)
            dictionary.decoder.mul_(sign)
        out = dictionary.train().forward_pass(x, x, tokens_since_fired=torch.full((8,), 100))
        penalty = sd.AuxK(k, 100, 1.0)
        gradient = gradients(penalty, out)
        found.append((penalty(out), sign * gradient["encoder"], sign * gradient["decoder"]))
        pre = dictionary.pre_activations(x).detach()
        kept = torch.where(pre.abs() >= pre.abs().topk(k).values[:, -1:], pre, 0.0)
        added = dictionary.reconstruct(kept, x) - dictionary.reconstruct(torch.zeros_like(kept), x)
        wanted = (x - out.reconstruction - added).square().sum(-1).mean()
        torch.testing.assert_close(found[-1][0], wanted)
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.as_installed
@pytest.mark.parametrize("norm", [sd.InputLayerNorm(), sd.InputRMSNorm(), sd.InputScale(0.01)], ids=repr)
def test_it_revives_latents_of_autoencoders_that_normalise(norm: sd.InputNorm) -> None:
    x = sd.data.SyntheticFeatures(8, 30, 2.0, seed=0).sample(1024, 1)[0].outputs * 10
    dead = {}
    for penalties in ([], [sd.AuxK(4, 500, 1.0)]):
        generator = torch.Generator().manual_seed(0)
        kwargs = {"decoder_norm": sd.UnitNorm(), "input_norm": norm, "generator": generator}
        dictionary = sd.SparseAutoencoder(8, 32, activation=sd.TopK(2), **kwargs)
        dictionary.initialise_(x, x)
        with torch.no_grad():
            dictionary.encoder[:16] *= 1e-3
            dictionary.encoder_bias[:16] *= 1e-3
        sd.fit(dictionary, x, n_tokens=12_800, batch_size=128, lr=1e-2, penalties=penalties, progress=False)
        dead[bool(penalties)] = sd.analysis.dead_latents(dictionary, x).n_dead
    assert dead[False] >= 16
    assert dead[True] < dead[False]


@pytest.mark.as_installed
def test_the_former_name_is_taken_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="`idle_tokens` was renamed to `dead_after`"):
        assert sd.AuxK(idle_tokens=7) == sd.AuxK(dead_after=7)
    with pytest.warns(FutureWarning, match="`idle_tokens` was renamed to `dead_after`"):
        assert sd.Resample(5, idle_tokens=7) == sd.Resample(5, dead_after=7)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_dead_latents_of_abs_top_k_are_taken_by_magnitude_with_their_signs(kind: str, k: int) -> None:
    out = pass_with(IDLE, kind, "abs_top_k")
    dictionary, penalty = out.dictionary, sd.AuxK(k=k, dead_after=100, coefficient=1.0)
    pre = dictionary.pre_activations(out.inputs).detach()[:, DEAD]
    latents = torch.zeros(9, cases.N_LATENTS, dtype=torch.float64)
    largest = pre.abs().topk(k, dim=-1).indices
    latents[torch.arange(9)[:, None], DEAD[largest]] = pre.gather(1, largest)
    assert (latents < 0).any()
    added = dictionary.reconstruct(latents, out.inputs) - dictionary.reconstruct(0 * latents, out.inputs)
    wanted = (out.targets - out.reconstruction - added).square().sum(-1).mean()
    torch.testing.assert_close(penalty(out).detach(), wanted.detach())
    found = gradients(penalty, out)
    encoders = {name: rows for name, rows in rows_of_latents(kind).items() if "bias" not in name and "enc" in name}
    assert any(found[name][~LIVE[rows]].any() for name, rows in encoders.items())
    assert not any(found[name][LIVE[rows]].any() for name, rows in encoders.items())
