"""Small random models of every family, without anything from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsedict as sd

VOCABULARY, WIDTH, HIDDEN = 50, 16, 40
_HF = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": HIDDEN, "max_position_embeddings": 32}
_LAYERS = {"num_hidden_layers": 3, "num_attention_heads": 2}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_HEADS = {"num_key_value_heads": 2}
_GROUPED = {**_HEADS, "head_dim": 8, **_TOKENS}

FAMILIES: dict[str, tuple[str, str, dict[str, Any], str | tuple[str, str]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 3, "n_head": 2, "n_positions": 32},
        "transformer.h.1.mlp",
    ),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {**_HF, "num_layers": 3, "num_heads": 2, "attention_types": [[["global"], 3]]},
        "transformer.h.1.mlp",
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**_HF, **_LAYERS}, "gpt_neox.layers.1.mlp"),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**_HF, **_LAYERS, **_GROUPED}, "model.layers.1.mlp"),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**_HF, **_LAYERS, **_GROUPED}, "model.layers.1.mlp"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**_HF, **_LAYERS, **_GROUPED}, "model.layers.1.mlp"),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_HF, **_LAYERS, **_GROUPED}, "model.layers.1.mlp"),
    "phi": ("PhiForCausalLM", "PhiConfig", {**_HF, **_LAYERS}, "model.layers.1.mlp"),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**_HF, **_LAYERS, **_GROUPED}, "model.layers.1.mlp"),
    "bert": (
        "BertForMaskedLM",
        "BertConfig",
        {**_HF, **_LAYERS},
        ("bert.encoder.layer.1.intermediate:in", "bert.encoder.layer.1.output.dense:out"),
    ),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "ffn_dim": HIDDEN, "word_embed_proj_dim": WIDTH, **_LAYERS},
        ("model.decoder.layers.1.fc1:in", "model.decoder.layers.1.fc2:out"),
    ),
    "bloom": (
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": 3, "n_head": 2},
        ("transformer.h.1.mlp.dense_h_to_4h:in", "transformer.h.1.mlp.dense_4h_to_h:out"),
    ),
}
"""Model class, config class, its arguments, and the path (or the two points) of the second layer's MLP."""

OTHERS: dict[str, tuple[str, str, dict[str, Any], str | tuple[str, str]]] = {
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**_HF, **_LAYERS, **_GROUPED}, "model.layers.1.mlp"),
    "gptj": (
        "GPTJForCausalLM",
        "GPTJConfig",
        {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 3, "n_head": 2, "n_positions": 32, "rotary_dim": 4},
        "transformer.h.1.mlp",
    ),
    "mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        {**_HF, **_LAYERS, **_GROUPED, "num_local_experts": 2},
        "model.layers.1.mlp",
    ),
    "olmo": ("OlmoForCausalLM", "OlmoConfig", {**_HF, **_LAYERS, **_TOKENS}, "model.layers.1.mlp"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**_HF, **_LAYERS, **_TOKENS, **_HEADS}, "model.layers.1.mlp"),
    "stablelm": (
        "StableLmForCausalLM",
        "StableLmConfig",
        {**_HF, **_LAYERS, **_TOKENS, **_HEADS},
        "model.layers.1.mlp",
    ),
    "exaone4": (
        "Exaone4ForCausalLM",
        "Exaone4Config",
        {**_HF, **_LAYERS, **_TOKENS, **_HEADS, "sliding_window": 16},
        "model.layers.1.mlp",
    ),
    "granite": (
        "GraniteForCausalLM",
        "GraniteConfig",
        {**_HF, **_LAYERS, **_TOKENS, "residual_multiplier": 0.22},
        "model.layers.1.mlp",
    ),
    "mpt": (
        "MptForCausalLM",
        "MptConfig",
        {"vocab_size": VOCABULARY, "d_model": WIDTH, "n_layers": 3, "n_heads": 2, "max_seq_len": 32},
        ("transformer.blocks.1.ffn.up_proj:in", "transformer.blocks.1.ffn.down_proj:out"),
    ),
    "glm4": ("Glm4ForCausalLM", "Glm4Config", {**_HF, **_LAYERS, **_GROUPED}, "model.layers.1.mlp"),
    "xglm": (
        "XGLMForCausalLM",
        "XGLMConfig",
        {"vocab_size": VOCABULARY, "d_model": WIDTH, "ffn_dim": HIDDEN, "num_layers": 3, "attention_heads": 2},
        ("model.layers.1.fc1:in", "model.layers.1.fc2:out"),
    ),
}
"""More families, for the tests of hooks only."""


def hugging_face(family: str, **overrides: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    model_class, config_class, arguments, _ = (FAMILIES | OTHERS)[family]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**{**arguments, **overrides})
    config.architectures = [model_class]
    model = getattr(transformers, model_class)(config).eval()
    # The initial biases are zero and the norms one, which would hide mistakes.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def mlp(family: str) -> sd.Site:
    """Returns the MLP of the second layer."""
    model, path = hugging_face(family), (FAMILIES | OTHERS)[family][3]
    return sd.Site(model, path) if isinstance(path, str) else sd.Site(model, reads=path[0], writes=path[1])


def bridge(family: str, folder: Path, bridge_class: Any = None) -> Any:
    """Returns the model in TransformerLens' bridge, or in a class derived from it."""
    lens = pytest.importorskip("transformer_lens.model_bridge")
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {f"t{index}": index for index in range(VOCABULARY)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t3"))
    names = {"unk_token": "t3", "bos_token": "t1", "eos_token": "t1", "pad_token": "t0"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return (bridge_class or lens.TransformerBridge).boot_transformers(
        f"tiny-{family}", hf_model=hugging_face(family), device="cpu", tokenizer=tokenizer
    )


def tokens(n_sequences: int = 2, n_positions: int = 7) -> Tensor:
    return torch.randint(2, VOCABULARY, (n_sequences, n_positions), generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    """A residual block whose MLP calls its activation by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)
        self.n_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        return x + self.down(torch.nn.functional.silu(self.up(self.norm(x))))


class Plain(nn.Module):
    """A model of no library."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.first = Block()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        self.last = Block()
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.first(self.embedding(ids))
        return self.head(self.last(x + self.mlp(x)))
