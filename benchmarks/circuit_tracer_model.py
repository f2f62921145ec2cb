"""A model and transcoders as circuit-tracer takes them, without a download."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import sparsedict as sd

HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}


@dataclass
class Ids:
    """A tokenizer of ids. Id 0 is special, so circuit-tracer doesn't prepend a token to prompts that begin with it."""

    vocab_size: int
    all_special_ids = (0,)
    bos_token_id = pad_token_id = eos_token_id = 0
    padding_side = "right"

    def decode(self, ids: Any) -> str:
        return str(ids)


def replacement_model(model: Any, transcoders: Any) -> Any:
    """Returns circuit-tracer's model with the weights of a GPT-2 of transformers and with transcoders."""
    theirs: Any = import_module("circuit_tracer.replacement_model.replacement_model_transformerlens")
    lens: Any = import_module("transformer_lens")
    conversion: Any = import_module("transformer_lens.pretrained.weight_conversions.gpt2")
    logging.getLogger("circuit_tracer").setLevel(logging.ERROR)
    given = model.config
    config = lens.HookedTransformerConfig(
        n_layers=given.n_layer,
        d_model=given.n_embd,
        n_heads=given.n_head,
        d_head=given.n_embd // given.n_head,
        d_mlp=4 * given.n_embd,
        d_vocab=given.vocab_size,
        n_ctx=given.n_positions,
        act_fn="gelu_new",
        eps=given.layer_norm_epsilon,
        normalization_type="LN",
        model_name="gpt2",
        device="cpu",
        dtype=model.dtype,
    )
    made = theirs.TransformerLensReplacementModel(config)
    weights = {name: weight.detach().clone() for name, weight in conversion.convert_gpt2_weights(model, config).items()}
    weights["unembed.b_U"] = torch.zeros(given.vocab_size, dtype=model.dtype)
    lens.HookedTransformer.load_state_dict(made, made.state_dict() | weights)
    made._configure_replacement_model(transcoders)
    made.tokenizer = Ids(given.vocab_size)
    return made


def single_layer(dictionaries: Mapping[str, sd.SparseDistiller]) -> Any:
    """Returns circuit-tracer's set of single-layer transcoders with the weights of distillers."""
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet  # pyright: ignore[reportMissingImports]

    made = {}
    for layer, own in enumerate(dictionaries.values()):
        one = SingleLayerTranscoder(
            own.d_in,
            own.n_latents,
            _activation(own),
            layer,
            skip_connection=own.skip is not None,
            device=torch.device("cpu"),
            dtype=own.encoder.dtype,
        )
        weights = {"W_enc": own.encoder, "W_dec": own.decoder, "b_enc": own.encoder_bias, "b_dec": own.decoder_bias}
        if own.skip is not None:
            weights["W_skip"] = own.skip
        for name, weight in weights.items():
            getattr(one, name).data = weight.detach().clone()
        made[layer] = one
    return TranscoderSet(made, **HOOKS)


def cross_layer(dictionary: sd.CrossLayerDistiller, layers: Sequence[str]) -> Any:
    """Returns circuit-tracer's cross-layer transcoder with the weights of a distiller, with ReLU or JumpReLU."""
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder  # pyright: ignore[reportMissingImports]

    n_layers = len(layers)
    n_latents, d = dictionary.n_latents // n_layers, dictionary.d_in // n_layers
    is_jump = isinstance(dictionary.activation, sd.JumpReLU)
    made = CrossLayerTranscoder(
        n_layers,
        n_latents,
        d,
        activation_function="jump_relu" if is_jump else "relu",
        lazy_decoder=False,
        device=torch.device("cpu"),
        dtype=dictionary.encoder.dtype,
        **HOOKS,
    )
    encoder, decoder = dictionary.encoder.detach(), dictionary.decoder.detach()
    for layer, name in enumerate(layers):
        rows = dictionary.latents_of(name)
        made.W_enc.data[layer] = encoder[rows, layer * d : (layer + 1) * d]
        made.b_enc.data[layer] = dictionary.encoder_bias.detach()[rows]
        made.W_dec[layer].data = decoder[rows].unflatten(1, (n_layers, d))[:, layer:].clone()
    made.b_dec.data = dictionary.decoder_bias.detach().reshape(n_layers, d).clone()
    if is_jump:
        made.activation_function.threshold.data = threshold(dictionary).reshape(n_layers, 1, n_latents)
    return made


def threshold(dictionary: Any) -> Tensor:
    """Returns the thresholds of a dictionary with JumpReLU."""
    return dictionary.activation_state.log_threshold.detach().exp()


def _activation(own: sd.SparseDistiller) -> Any:
    from circuit_tracer.transcoder.activation_functions import JumpReLU, TopK  # pyright: ignore[reportMissingImports]

    if isinstance(own.activation, sd.TopK):
        return TopK(own.activation.k)
    return JumpReLU(threshold(own).clone()) if isinstance(own.activation, sd.JumpReLU) else torch.nn.functional.relu
