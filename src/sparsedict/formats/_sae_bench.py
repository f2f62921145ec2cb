"""`as_sae_bench`, an autoencoder in the form that SAEBench evaluates."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.dictionaries import SparseAutoencoder
from sparsedict.latents import SparseLatents


@dataclass
class SAEBenchConfig:
    """The attributes that SAEBench reads from ``sae.cfg``. It adds further ones.

    Attributes:
        model_name: Name of the model in TransformerLens.
        d_in: Width of the activations.
        d_sae: Number of latents.
        hook_layer: Layer of the hook, after which the forward pass stops.
        hook_name: Name of the hook in TransformerLens.
    """

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    context_size: int | None = None
    hook_head_index: int | None = None
    architecture: str = "sparsedict"
    apply_b_dec_to_input: bool | None = None
    finetuning_scaling_factor: bool | None = None
    activation_fn_str: str = ""
    activation_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    prepend_bos: bool = True
    normalize_activations: str = "none"
    dtype: str = "float32"
    device: str = "cpu"
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = True
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = -100_000
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, without attributes that SAEBench added."""
        return asdict(self)


class SAEBenchAutoencoder(nn.Module):
    r"""An autoencoder with the interface of ``sae_bench.custom_saes.base_sae.BaseSAE``.

    Decoder rows have norm 1, which SAEBench expects. Latents are multiplied by the norms of the dictionary's decoder
    rows, so outputs are unchanged.

    Attributes:
        W_enc: ``[d_in, n_latents]``.
        W_dec: ``[n_latents, d_in]``, rows of norm 1.
        b_enc: ``[n_latents]``.
        b_dec: ``[d_in]``.
        cfg: The configuration.
    """

    def __init__(self, dictionary: SparseAutoencoder, cfg: SAEBenchConfig) -> None:
        super().__init__()
        plain = dictionary.exported()
        norms = torch.linalg.vector_norm(plain.decoder, dim=1)
        # A latent whose decoder row is zero contributes nothing, in any direction.
        norms = torch.where(norms > 0, norms, torch.ones_like(norms))
        self.dictionary: SparseAutoencoder = dictionary
        self.cfg: SAEBenchConfig = cfg
        self.norms: Tensor
        self.register_buffer("norms", norms)
        self.W_enc: nn.Parameter = nn.Parameter((plain.encoder * norms[:, None]).T.contiguous())
        self.W_dec: nn.Parameter = nn.Parameter(plain.decoder / norms[:, None])
        self.b_enc: nn.Parameter = nn.Parameter(plain.encoder_bias * norms)
        self.b_dec: nn.Parameter = nn.Parameter(plain.decoder_bias.clone())
        self.eval()
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_dec.dtype

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Returns dense latents in units of the unit decoder rows."""
        latents = self.dictionary.encode(x.to(self.dtype))
        dense = latents.to_dense() if isinstance(latents, SparseLatents) else latents
        return dense * self.norms

    def decode(self, feature_acts: Float[Tensor, "*batch n_latents"]) -> Float[Tensor, "*batch d_in"]:
        """Returns the reconstruction."""
        return feature_acts.to(self.dtype) @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return self.decode(self.encode(x))


def as_sae_bench(
    dictionary: SparseAutoencoder, *, model_name: str, hook_name: str, hook_layer: int
) -> SAEBenchAutoencoder:
    """Returns a copy of an autoencoder in the form that the functions of SAEBench evaluate.

    SAEBench (``pip install sae-bench``) runs models of TransformerLens. Pass ``[(name, adapted)]`` as ``selected_saes``
    to ``multiple_evals`` of ``sae_bench.evals.core.main``, or to ``run_eval`` of ``absorption.main`` or
    ``sparse_probing.main``. Spurious
    correlation removal (SCR) and targeted probe perturbation (TPP) should be left out: both can rank better
    autoencoders below worse ones (Chanin, "Are Sparse Autoencoder Benchmarks Reliable?", 2026, arXiv 2605.18229).

    Args:
        dictionary: The autoencoder. Its input norm is folded into the weights.
        model_name: Name of the model in TransformerLens.
        hook_name: Name of the hook whose activations the autoencoder reads, such as ``"blocks.3.hook_mlp_out"``.
        hook_layer: Layer of the hook.

    Raises:
        TypeError: If the dictionary isn't an autoencoder, since SAEBench compares outputs with inputs.
        ValueError: If its input norm depends on the input, since SAEBench decodes latents alone.

    Source: Karvonen et al., "SAEBench: A Comprehensive Benchmark for Sparse Autoencoders in Language Model
    Interpretability", 2025, arXiv 2503.09532.

    Example:
        >>> import torch, sparsedict as sd
        >>> sae = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> names = {"model_name": "gpt2", "hook_name": "blocks.3.hook_mlp_out", "hook_layer": 3}
        >>> adapted = as_sae_bench(sae, **names)
        >>> x = torch.randn(2, 5, 8)
        >>> torch.allclose(adapted(x), sae(x).reconstruction, atol=1e-6)
        True
    """
    if not isinstance(dictionary, SparseAutoencoder):
        raise TypeError(
            "`dictionary` must be a SparseAutoencoder, because SAEBench compares outputs with inputs, got "
            f"{type(dictionary).__name__}."
        )
    for name, value in (("model_name", model_name), ("hook_name", hook_name)):
        if not isinstance(value, str) or not value:
            raise TypeError(f"`{name}` must be a name in TransformerLens, got {value!r}.")
    layer = checks.at_least("hook_layer", hook_layer, 0)
    folded = dictionary.folded().eval()
    dtype, device = str(folded.decoder.dtype).removeprefix("torch."), str(folded.decoder.device)
    cfg = SAEBenchConfig(model_name, folded.d_in, folded.n_latents, layer, hook_name, dtype=dtype, device=device)
    return SAEBenchAutoencoder(folded, cfg)
