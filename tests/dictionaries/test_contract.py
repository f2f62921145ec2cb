"""What every kind of dictionary keeps with every activation under every norm."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

import cases
import sparsedict as sd
from sparsedict.dictionaries import _encode

every_kind = pytest.mark.parametrize("kind", cases.KINDS)
every_pair = pytest.mark.parametrize(("kind", "activation"), cases.ALL_PAIRS)
some_pairs = pytest.mark.parametrize(("kind", "activation"), cases.PAIRS)
ALL_DENSE, ALL_SPARSE = 0.0, 1.0


def training_gradients(
    dictionary: sd.Dictionary, x: Tensor, mix: Tensor, context: sd.kernels.StepContext | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Reconstruction of a training step and the gradients of a loss that touches reconstruction and latents."""
    x = x.clone().requires_grad_()
    out = dictionary.forward_pass(x, torch.zeros(len(x), dictionary.d_out, dtype=x.dtype), context=context)
    loss = (out.reconstruction * mix).sum() + out.values.square().sum()
    return out.reconstruction.detach(), _gradients(loss, dict(dictionary.named_parameters()) | {"x": x})


def reference_gradients(kind: str, activation: str, dictionary: sd.Dictionary, x: Tensor, mix: Tensor):
    """The same by the dense formulas of the cases and plain autograd."""
    weights = {name: value.detach().clone() for name, value in dictionary.state_dict().items()}
    for name, _ in dictionary.named_parameters():
        weights[name].requires_grad_()
    x = x.clone().requires_grad_()
    state = {name.rpartition(".")[2]: value for name, value in weights.items() if name.startswith("activation_state")}
    pre = cases.KINDS[kind].pre_activations(weights, x)
    latents = cases.ACTIVATIONS[activation].reference(pre, state, dictionary.training)
    reconstruction = cases.KINDS[kind].output(weights, latents, x)
    loss = (reconstruction * mix).sum() + latents.square().sum()
    trained = {name: value for name, value in weights.items() if value.requires_grad}
    return reconstruction.detach(), _gradients(loss, trained | {"x": x})


def _gradients(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    pairs = zip(leaves.items(), gradients, strict=True)
    return {name: torch.zeros_like(leaf) if gradient is None else gradient for (name, leaf), gradient in pairs}


def assert_equal(actual: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
    torch.testing.assert_close(actual, wanted, rtol=0, atol=tolerance * scale, msg=lambda text: f"{what}: {text}")


@every_pair
def test_training_step_equals_the_dense_reference(kind: str, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    norm = list(cases.NORMS)[cases.ALL_PAIRS.index((kind, activation)) % len(cases.NORMS)]
    dictionary = cases.make(kind, activation, norm).train()
    for dense_share in (ALL_DENSE, ALL_SPARSE):
        monkeypatch.setattr(_encode, "DENSE_SHARE", dense_share)
        assert_step_equals_reference(kind, activation, dictionary, cases.tokens(9), 1e-10)


@some_pairs
def test_training_step_in_single_precision_and_of_one_token(
    kind: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_encode, "DENSE_SHARE", ALL_SPARSE)
    dictionary = cases.make(kind, activation, dtype=torch.float32).train()
    assert_step_equals_reference(kind, activation, dictionary, cases.tokens(9, dtype=torch.float32), 1e-5)
    assert_step_equals_reference(kind, activation, dictionary, cases.tokens(1, dtype=torch.float32), 1e-5)


def assert_step_equals_reference(
    kind: str, activation: str, dictionary: sd.Dictionary, x: Tensor, tolerance: float
) -> None:
    mix = torch.randn(len(x), dictionary.d_out, dtype=x.dtype)
    wanted, wanted_gradients = reference_gradients(kind, activation, dictionary, x, mix)
    actual, gradients = training_gradients(dictionary, x, mix)
    assert_equal(actual, wanted, tolerance, "reconstruction")
    for name, gradient in wanted_gradients.items():
        assert_equal(gradients[name], gradient, tolerance, f"gradient of {name}")


@some_pairs
def test_gradients_flow_through_an_evaluated_dictionary(kind: str, activation: str) -> None:
    dictionary = cases.make(kind, activation)
    x = cases.tokens(9)
    mix = torch.randn(9, dictionary.d_out, dtype=x.dtype)
    wanted, wanted_gradients = reference_gradients(kind, activation, dictionary, x, mix)
    actual, gradients = training_gradients(dictionary, x, mix)
    assert_equal(actual, wanted, 1e-10, "reconstruction")
    for name, gradient in wanted_gradients.items():
        if not name.endswith("threshold"):  # outside training the threshold is taken as given
            assert_equal(gradients[name], gradient, 1e-10, f"gradient of {name}")


@some_pairs
def test_gradients_are_the_same_where_the_inputs_need_none(kind: str, activation: str) -> None:
    dictionary = cases.make(kind, activation).train()
    x, mix = cases.tokens(9), torch.randn(9, dictionary.d_out, dtype=torch.float64)
    _, wanted = training_gradients(dictionary, x, mix)
    out = dictionary.forward_pass(x, torch.zeros_like(mix))
    loss = (out.reconstruction * mix).sum() + out.values.square().sum()
    for name, gradient in _gradients(loss, dict(dictionary.named_parameters())).items():
        assert_equal(gradient, wanted[name], 1e-10, f"gradient of {name}")


@some_pairs
def test_all_gradients_are_there_when_no_latent_fires(kind: str, activation: str) -> None:
    dictionary = cases.make(kind, activation).train()
    x = cases.tokens(3)[:1].expand(4, -1)
    mix = torch.randn(4, dictionary.d_out, dtype=x.dtype)
    _, wanted = reference_gradients(kind, activation, dictionary, x, mix)
    _, gradients = training_gradients(dictionary, x, mix)
    for name, gradient in wanted.items():
        assert_equal(gradients[name], gradient, 1e-10, f"gradient of {name}")


@some_pairs
@pytest.mark.parametrize("training", [False, True])
def test_encode_is_encode_sparse_made_dense(
    kind: str, activation: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dictionary = cases.make(kind, activation).train(training)
    for dense_share, shape in ((ALL_DENSE, (9,)), (ALL_SPARSE, (3, 3)), (ALL_DENSE, ()), (ALL_SPARSE, (1, 1))):
        monkeypatch.setattr(_encode, "DENSE_SHARE", dense_share)
        x = cases.tokens(9)[3:].repeat(2, 1)[: max(1, torch.Size(shape).numel())].reshape(*shape, cases.D_IN)
        sparse = dictionary.encode_sparse(x)
        latents = dictionary.encode(x)
        assert sparse.batch_shape == torch.Size(shape)
        assert torch.equal(sparse.to_dense(), latents)
        assert torch.equal(dictionary(x).latents, latents)


@some_pairs
def test_leading_dimensions_are_free(kind: str, activation: str) -> None:
    dictionary = cases.make(kind, activation)
    x = cases.tokens(12)
    rows = dictionary(x)
    for shape in ((3, 4), (2, 3, 2), (12, 1)):
        shaped = dictionary(x.reshape(*shape, -1))
        assert shaped.latents.shape == (*shape, cases.N_LATENTS)
        assert shaped.reconstruction.shape == (*shape, dictionary.d_out)
        torch.testing.assert_close(shaped.latents.flatten(0, -2), rows.latents)
        torch.testing.assert_close(shaped.reconstruction.flatten(0, -2), rows.reconstruction)
    one = dictionary(x[4])
    torch.testing.assert_close(one.latents, rows.latents[4])
    torch.testing.assert_close(one.reconstruction, rows.reconstruction[4])


@some_pairs
@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch_gives_empty_results(kind: str, activation: str, training: bool) -> None:
    dictionary = cases.make(kind, activation).train(training)
    for shape in ((0,), (2, 0), (0, 3)):
        x = torch.zeros(*shape, cases.D_IN, dtype=torch.float64, requires_grad=True)
        output = dictionary(x)
        assert output.latents.shape == (*shape, cases.N_LATENTS)
        assert output.reconstruction.shape == (*shape, dictionary.d_out)
        assert dictionary.encode_sparse(x).shape == (*shape, cases.N_LATENTS)
        output.reconstruction.sum().backward()
        assert all(weight.grad is None or not weight.grad.any() for weight in dictionary.parameters())


@some_pairs
def test_reconstruct_takes_dense_and_sparse_latents_alike(kind: str, activation: str) -> None:
    dictionary = cases.make(kind, activation)
    x = cases.tokens(6).reshape(2, 3, -1)
    sparse = dictionary.encode_sparse(x)
    from_sparse = dictionary.reconstruct(sparse, x)
    torch.testing.assert_close(dictionary.reconstruct(sparse.to_dense(), x), from_sparse)
    torch.testing.assert_close(dictionary(x).reconstruction, from_sparse)
    torch.testing.assert_close(dictionary.decode(sparse.to_dense()), dictionary.decode(sparse))


@some_pairs
def test_the_encoder_is_affine_in_the_encoder_inputs(kind: str, activation: str) -> None:
    dictionary = cases.make(kind, activation)
    x = cases.tokens(5)
    assert dictionary.has_affine_encoder
    affine = dictionary.encoder_inputs(x) @ dictionary.encoder.T + dictionary.encoder_bias
    torch.testing.assert_close(dictionary.pre_activations(x), affine)


@pytest.mark.parametrize(
    ("kind", "activation", "dtype"),
    [(*pair, (torch.bfloat16, torch.float16)[index % 2]) for index, pair in enumerate(cases.PAIRS)],
)
def test_half_precision_trains_a_step_near_the_full_one(kind: str, activation: str, dtype: torch.dtype) -> None:
    dictionary = cases.make(kind, activation, dtype=dtype).train()
    x = cases.tokens(9, dtype=dtype)[3:]
    mix = torch.randn(len(x), dictionary.d_out, dtype=dtype)
    full = copy.deepcopy(dictionary).double()
    actual, gradients = training_gradients(dictionary, x, mix)
    wanted, _ = training_gradients(full, x.double(), mix.double())
    assert actual.dtype == dtype
    assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in gradients.values())
    # Loose, because rounding may change which latents are the k largest.
    assert (actual - wanted).square().mean() < 0.2 * wanted.square().mean()


@pytest.mark.parametrize(
    ("kind", "activation", "norm"),
    [
        (kind, list(cases.ACTIVATIONS)[(2 * index + shift) % len(cases.ACTIVATIONS)], norm)
        for index, kind in enumerate(cases.KINDS)
        for shift, norm in enumerate(cases.NORMS)
    ],
)
def test_a_new_dictionary_satisfies_its_norm_and_arguments(kind: str, activation: str, norm: str) -> None:
    make = cases.KINDS[kind].make
    parts = {"activation": cases.ACTIVATIONS[activation].activation, "decoder_norm": cases.NORMS[norm]}
    dictionary = make(**parts, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    constrained = dictionary.decoder.detach().clone()
    dictionary.decoder_norm.constrain_(constrained)
    torch.testing.assert_close(constrained, dictionary.decoder.detach())
    assert not dictionary.training
    assert {weight.dtype for weight in dictionary.state_dict().values()} == {torch.float64}
    assert (dictionary.d_in, dictionary.n_latents) == (cases.D_IN, cases.N_LATENTS)
    same = make(**parts, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    for name, weight in dictionary.named_parameters():
        assert torch.equal(weight, same.get_parameter(name)), name


@some_pairs
def test_the_arguments_make_the_same_dictionary_again(kind: str, activation: str) -> None:
    dictionary = cases.make(kind, activation)
    again = type(dictionary)(
        **dictionary.arguments(), activation=dictionary.activation, decoder_norm=dictionary.decoder_norm
    )
    assert again.arguments() == dictionary.arguments()
    assert (again.reads, again.writes) == (dictionary.reads, dictionary.writes)
    again.double().load_state_dict(dictionary.state_dict())
    x = cases.tokens(4)
    assert torch.equal(again(x).reconstruction, dictionary(x).reconstruction)


@every_kind
def test_nan_never_turns_into_silence(kind: str) -> None:
    for activation in cases.ACTIVATIONS:
        for training in (False, True):
            dictionary = cases.make(kind, activation).train(training)
            x = cases.tokens(9)
            x[4, 2 if kind in cases.PLAIN_KINDS else slice(None)] = torch.nan
            is_nan = dictionary(x).reconstruction[4].isnan()
            # The largest latent of all layers may write to the last alone.
            assert is_nan.all() if kind in cases.PLAIN_KINDS else is_nan.any(), (activation, training)
            assert dictionary.encode_sparse(x).values.isnan().any(), (activation, training)


@some_pairs
def test_autocast_trains_a_step_near_the_full_one(kind: str, activation: str) -> None:
    dictionary = cases.make(kind, activation, dtype=torch.float32).train()
    # Latents that tie in bfloat16 are rare among many tokens.
    x = cases.tokens(67, dtype=torch.float32)[3:]
    mix = torch.randn(len(x), dictionary.d_out)
    wanted, _ = training_gradients(dictionary, x, mix)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, gradients = training_gradients(dictionary, x, mix)
        dictionary.eval()(x)
        dictionary.encode_sparse(x)
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients.values())
    assert (actual - wanted).square().mean() < 0.2 * wanted.square().mean()


SPARSE_ACTIVATIONS = [name for name, case in cases.ACTIVATIONS.items() if not name.startswith(("gelu", "silu"))]
TRITON_CASES = sorted(
    {*((kind, "relu") for kind in cases.KINDS), *(("distiller", name) for name in SPARSE_ACTIVATIONS)}
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs Triton in the tests below")
@pytest.mark.parametrize(("kind", "activation"), TRITON_CASES)
@pytest.mark.usefixtures("interpreter")
def test_triton_computes_the_dense_reference(kind: str, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, in Triton's interpreter: the host doesn't read the number of entries."""
    pytest.importorskip("triton")
    monkeypatch.setattr(_encode, "DENSE_SHARE", ALL_SPARSE)
    dictionary = cases.make(kind, activation).train()
    for n_tokens in (1, 6):
        x, capacity = cases.tokens(n_tokens), sd.kernels.Capacity(0.5)
        mix = torch.randn(n_tokens, dictionary.d_out, dtype=x.dtype)
        with sd.kernels.using(sd.kernels.triton_backend()):
            actual, gradients = training_gradients(dictionary, x, mix, sd.kernels.StepContext(capacity=capacity))
            if not capacity.was_sufficient():
                assert activation == "batch_top_k"
                actual, gradients = training_gradients(dictionary, x, mix)
        wanted, wanted_gradients = reference_gradients(kind, activation, dictionary, x, mix)
        assert_equal(actual, wanted, 1e-10, "reconstruction")
        for name, gradient in wanted_gradients.items():
            assert_equal(gradients[name], gradient, 1e-10, f"gradient of {name}")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("activation", SPARSE_ACTIVATIONS)
def test_a_gpu_step_reads_nothing_from_the_device(activation: str) -> None:
    dictionary = cases.make("distiller", activation, dtype=torch.float32).cuda().train()
    x = cases.tokens(200, dtype=torch.float32).cuda()
    target = torch.zeros(200, dictionary.d_out, device="cuda")
    for mode in ("default", "error"):  # kernels are compiled first
        context = sd.kernels.StepContext(capacity=sd.kernels.Capacity(0.01))
        torch.cuda.set_sync_debug_mode(mode)
        try:
            out = dictionary.forward_pass(x, target, context=context)
            (out.reconstruction.square().sum() + out.values.sum()).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@some_pairs
def test_a_gpu_computes_the_same(kind: str, activation: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        dictionary = cases.make(kind, activation, dtype=dtype)
        for training, n_tokens in ((False, 200), (True, 1), (True, 200)):
            dictionary.train(training)
            on_gpu = copy.deepcopy(dictionary).cuda()
            x = cases.tokens(n_tokens, dtype=dtype)
            mix = torch.randn(n_tokens, dictionary.d_out, dtype=dtype)
            wanted, wanted_gradients = training_gradients(dictionary, x, mix)
            actual, gradients = training_gradients(on_gpu, x.cuda(), mix.cuda())
            assert_equal(actual.cpu(), wanted, tolerance, "reconstruction")
            for name, gradient in wanted_gradients.items():
                assert_equal(gradients[name].cpu(), gradient, tolerance, f"gradient of {name}")
            assert_equal(on_gpu.encode_sparse(x.cuda()).to_dense().cpu(), dictionary.encode(x), tolerance, "latents")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@some_pairs
def test_a_gpu_takes_half_precision_and_empty_batches(kind: str, activation: str) -> None:
    dictionary = cases.make(kind, activation, dtype=torch.bfloat16).cuda().train()
    x = cases.tokens(9, dtype=torch.bfloat16).cuda()
    mix = torch.randn(9, dictionary.d_out, dtype=torch.bfloat16, device="cuda")
    assert all(gradient.isfinite().all() for gradient in training_gradients(dictionary, x, mix)[1].values())
    for training in (False, True):
        dictionary.train(training)
        assert dictionary(x[:0]).reconstruction.shape == (0, dictionary.d_out)
        assert dictionary.encode_sparse(x[:0]).shape == (0, cases.N_LATENTS)
