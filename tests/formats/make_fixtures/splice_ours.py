"""Lets SAELens splice what `write_spliced.py` wrote into a small GPT-2, and compares activations and losses.

python splice_ours.py FOLDER

With TransformerLens 3 the model is a ``SAETransformerBridge``, with TransformerLens 2 a ``HookedSAETransformer``, which
has no hook at an MLP's input: there a transcoder's is given as ``ln2.hook_normalized``.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

import torch
from common import gpt2
from sae_lens import SAE
from safetensors.torch import load_file

warnings.simplefilter("ignore")
TOLERANCE = 1e-4
FOLDER = Path(sys.argv[1]) / "spliced"
hugging_face, tokens = gpt2()
has_bridge = int(version("transformer-lens").split(".")[0]) >= 3


def bridge():
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
    from tokenizers import Tokenizer, models
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{index}": index for index in range(50)}, unk_token="t3"))
    names = {"unk_token": "t3", "bos_token": "t1", "eos_token": "t1", "pad_token": "t0"}
    # TransformerLens reads it again later.
    folder = mkdtemp()
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    hugging_face.config.architectures = ["GPT2LMHeadModel"]
    return SAETransformerBridge.boot_transformers("gpt2", hf_model=hugging_face, tokenizer=tokenizer, device="cpu")


def hooked():
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    config = HookedTransformerConfig(
        n_layers=3,
        d_model=16,
        n_ctx=32,
        d_head=8,
        n_heads=2,
        d_mlp=64,
        d_vocab=50,
        act_fn="gelu_new",
        normalization_type="LN",
    )
    model = HookedSAETransformer(config)
    weights = convert_gpt2_weights(hugging_face, config)
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.eval()


model = bridge() if has_bridge else hooked()
losses = json.loads((FOLDER / "losses.json").read_text())


@torch.no_grad()
def loss(saes: list[SAE]) -> float:
    logits = model.run_with_saes(tokens, saes=saes) if saes else model(tokens)
    return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))


bad = []
plain = loss([])
print(f"transformer-lens {version('transformer-lens')}, plain loss {plain:.6f}, Hugging Face {losses['plain']:.6f}")
for folder in sorted(path for path in FOLDER.iterdir() if path.is_dir()):
    sae = SAE.load_from_disk(folder)
    if not has_bridge and sae.cfg.metadata.hook_name == "blocks.1.mlp.hook_in":
        sae.cfg.metadata.hook_name = "blocks.1.ln2.hook_normalized"
    kept = load_file(f"{folder}.forward.safetensors")
    with torch.no_grad():
        error = float((sae(kept["inputs"]) - kept["outputs"]).abs().max())
        found: list[torch.Tensor] = []
        hook = sae.cfg.metadata.hook_name
        hook = model._resolve_hook_name(hook) if has_bridge else hook
        keep = (hook, lambda value, hook, found=found: found.append(value))
        model.run_with_hooks(tokens, fwd_hooks=[keep])
        read = found[0].flatten(0, 1)
    at_hook = float((read - kept["inputs"]).abs().max())
    spliced = loss([sae])
    # SAELens splices what `decode` gives, which leaves a skip connection out.
    differs = not hasattr(sae, "W_skip") and abs(spliced - losses[folder.name]) > TOLERANCE
    wrong = [error > TOLERANCE, at_hook > TOLERANCE, differs, spliced == plain]
    bad += [folder.name] * any(wrong)
    print(
        f"{folder.name}: forward {error:.1e}, at the hook {at_hook:.1e}, spliced loss {spliced:.6f}, "
        f"ours {losses[folder.name]:.6f}"
    )
    if hasattr(sae.cfg, "rescale_acts_by_decoder_norm"):
        sae.fold_W_dec_norm()
        print(f"  fold_W_dec_norm: forward {float((sae(kept['inputs']) - kept['outputs']).abs().max()):.1e}")
print("differ:", bad or "none")
sys.exit(bool(bad))
