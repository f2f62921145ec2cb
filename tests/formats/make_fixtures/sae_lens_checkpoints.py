"""Writes SAELens checkpoints of every architecture, and of versions before 6, and what SAELens computes from them."""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch
from common import D_IN, D_OUT, N_LATENTS, K, inputs, keep, randomise_, target
from sae_lens import SAE
from sae_lens.saes import sae as base
from sae_lens.saes.abstopk_sae import AbsTopKSAE, AbsTopKSAEConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)
from safetensors.torch import save_file

warnings.simplefilter("ignore")
FOLDER = target("sae_lens")
SIZES: dict[str, Any] = {"d_in": D_IN, "d_sae": N_LATENTS}
TRANSCODES: dict[str, Any] = {**SIZES, "d_out": D_OUT, "apply_b_dec_to_input": False}


def metadata(hook: str = "blocks.1.hook_resid_post") -> base.SAEMetadata:
    return base.SAEMetadata(model_name="tiny-stories", hook_name=hook)


def compute(case: str, *, width: tuple[int, ...] = (D_IN,)) -> None:
    """Loads a folder again as SAELens does, and keeps what it computes."""
    sae = SAE.load_from_disk(FOLDER / case, dtype="float32")
    x = inputs()
    shaped = x.reshape(-1, *width)
    latents = sae.encode(shaped)
    keep(FOLDER / case, x, latents, sae(shaped).reshape(len(x), -1))


def saved(case: str, kind: type, config: Any, *, width: tuple[int, ...] = (D_IN,)) -> None:
    config.metadata = metadata("blocks.1.attn.hook_z" if len(width) > 1 else "blocks.1.hook_resid_post")
    sae = kind(config)
    randomise_(sae, seed=len(case))
    sae.save_model(FOLDER / case)
    compute(case, width=width)


def trained(case: str, kind: type, config: Any) -> None:
    config.metadata = metadata()
    sae = kind(config)
    randomise_(sae, seed=len(case))
    (FOLDER / case).mkdir(exist_ok=True)
    sae.save_inference_model(FOLDER / case)
    compute(case)


def before_six(case: str, tensors: dict[str, torch.Tensor], **cfg: Any) -> None:
    """Writes a folder as versions before 6 did; SAELens converts the configuration when it loads it."""
    folder = FOLDER / case
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae_weights.safetensors")
    old = {
        "hook_point": "blocks.1.hook_resid_pre",
        "hook_point_head_index": None,
        "hook_point_layer": 1,
        "model_name": "gpt2-small",
        "d_in": D_IN,
        "d_sae": N_LATENTS,
        "dtype": "torch.float32",
        "device": "cpu",
        "context_size": 128,
        "dataset_path": "Skylion007/openwebtext",
        **cfg,
    }
    (folder / "cfg.json").write_text(json.dumps(old))
    compute(case)


def plain(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D_IN, N_LATENTS), "W_dec": (N_LATENTS, D_IN), "b_enc": (N_LATENTS,), "b_dec": (D_IN,)}
    return {name: torch.randn(shape, generator=generator) * 0.6 for name, shape in shapes.items()}


saved("standard", StandardSAE, StandardSAEConfig(**SIZES))
saved("standard_no_offset", StandardSAE, StandardSAEConfig(**SIZES, apply_b_dec_to_input=False))
saved("standard_layer_norm", StandardSAE, StandardSAEConfig(**SIZES, normalize_activations="layer_norm"))
saved(
    "standard_constant_norm",
    StandardSAE,
    StandardSAEConfig(**SIZES, normalize_activations="constant_norm_rescale"),  # pyright: ignore
)
saved("standard_hook_z", StandardSAE, StandardSAEConfig(**SIZES, reshape_activations="hook_z"), width=(2, D_IN // 2))
saved("standard_bfloat16", StandardSAE, StandardSAEConfig(**SIZES, dtype="bfloat16"))
saved("gated", GatedSAE, GatedSAEConfig(**SIZES))
saved("gated_layer_norm", GatedSAE, GatedSAEConfig(**SIZES, normalize_activations="layer_norm"))
saved("jumprelu", JumpReLUSAE, JumpReLUSAEConfig(**SIZES))
saved("jumprelu_bfloat16", JumpReLUSAE, JumpReLUSAEConfig(**SIZES, dtype="bfloat16"))
saved("topk", TopKSAE, TopKSAEConfig(**SIZES, k=K))
saved("topk_rescaled", TopKSAE, TopKSAEConfig(**SIZES, k=K, rescale_acts_by_decoder_norm=True))
saved("topk_layer_norm", TopKSAE, TopKSAEConfig(**SIZES, k=K, normalize_activations="layer_norm"))
saved("abstopk", AbsTopKSAE, AbsTopKSAEConfig(**SIZES, k=K))
saved("transcoder", Transcoder, TranscoderConfig(**TRANSCODES))
saved("transcoder_layer_norm", Transcoder, TranscoderConfig(**TRANSCODES, normalize_activations="layer_norm"))
saved("skip_transcoder", SkipTranscoder, SkipTranscoderConfig(**TRANSCODES))
saved("jumprelu_transcoder", JumpReLUTranscoder, JumpReLUTranscoderConfig(**TRANSCODES))
saved("jumprelu_skip_transcoder", JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig(**TRANSCODES))
trained("trained_topk", TopKTrainingSAE, TopKTrainingSAEConfig(**SIZES, k=K))
trained("trained_batchtopk", BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig(**SIZES, k=K))
trained(
    "trained_matryoshka",
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig(**SIZES, k=K, matryoshka_widths=[4, N_LATENTS]),
)
before_six("old_standard", plain(1), normalize_activations=False, prepend_bos=True)
before_six("old_scaling_factor", plain(2) | {"scaling_factor": torch.ones(N_LATENTS)}, activation_fn_str="relu")
before_six("old_topk", plain(3), activation_fn_str="topk", activation_fn_kwargs={"k": K}, architecture="standard")
before_six(
    "old_jumprelu",
    plain(4) | {"threshold": torch.linspace(0.05, 1, N_LATENTS)},
    architecture="jumprelu",
    normalize_activations="none",
    sae_lens_training_version="3.12.0",
)
before_six(
    "old_no_offset", plain(5), apply_b_dec_to_input=False, normalize_activations="layer_norm", architecture="standard"
)
