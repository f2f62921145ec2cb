from __future__ import annotations

import pytest
import torch

import cases


@pytest.mark.parametrize(("kind", "activation"), cases.PAIRS)
@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_a_forward_pass_holds_the_evaluated_quantities(
    kind: str, activation: str, dense_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsedict.dictionaries._encode.DENSE_SHARE", dense_share)
    dictionary = cases.make(kind, activation).train()
    x = cases.tokens(9)
    targets = torch.randn(9, dictionary.d_out, dtype=torch.float64)
    tokens_since_fired = torch.arange(cases.N_LATENTS)
    out = dictionary.forward_pass(x, targets, step=4, tokens_since_fired=tokens_since_fired)
    output = dictionary(x)
    torch.testing.assert_close(out.reconstruction, output.reconstruction)
    assert (out.n_tokens, out.step) == (9, 4)
    assert out.dictionary is dictionary
    assert out.activation is dictionary.activation
    assert out.targets is targets
    assert out.tokens_since_fired is tokens_since_fired
    pre = dictionary.pre_activations(x)
    assert torch.equal(out.firing_counts(), (output.latents != 0).sum(0))
    torch.testing.assert_close(out.decoder_norms, dictionary.decoder.norm(dim=-1))
    assert out.decoder_norms.requires_grad
    where = (...,) if out.support is None else (out.support.tokens, out.support.latents)
    torch.testing.assert_close(out.pre_activations, pre[where])
    torch.testing.assert_close(out.values, output.latents[where])
    assert torch.equal(
        out.aligned(tokens_since_fired.double()).expand_as(out.values),
        tokens_since_fired.double().expand_as(pre)[where],
    )
    for name, value in out.state.items():
        whole = dictionary.activation_state.entries()[name]
        aligned = whole if whole.ndim == 0 else out.aligned(whole)
        assert torch.equal(value, aligned), name
