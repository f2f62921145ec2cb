"""Rebuilds the embedded model: ``python -m sparsedict.zoo.build --out FOLDER``.

The model is a GPT-Neo language model of Python source, trained from scratch on the training split of the standard
library (see :func:`sparsedict.zoo.source_files`), with a byte-level BPE tokenizer. The defaults are those of the
embedded model: four layers, sequences of 256 tokens. The command also builds smaller models, such as that of
``benchmarks.first_try``.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsedict.zoo._corpus import SourceFile, source_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GPTNeoForCausalLM

BOS = "<|endoftext|>"
N_VOCABULARY = 4096
D_MODEL = 128


def train_tokenizer(files: list[SourceFile]) -> Tokenizer:
    """Trains a byte-level BPE tokenizer whose token 0 is BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCABULARY,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((file.text for file in files), trainer)
    return tokenizer


def pack(tokenizer: Tokenizer, files: list[SourceFile]) -> Tensor:
    """Joins all files into one row of tokens. Each file starts with BOS."""
    bos = tokenizer.token_to_id(BOS)
    encoded = tokenizer.encode_batch([file.text for file in files])
    return torch.tensor([token for item in encoded for token in (bos, *item.ids)])


def sequences(tokens: Tensor, generator: torch.Generator, batch_size: int, n_context: int) -> Iterator[Tensor]:
    """Yields shuffled batches of sequences ``[batch_size, n_context]``, which start at other offsets in every epoch.

    Position 0 of every sequence is BOS, as in the sequences for which activations are captured.
    """
    width = n_context - 1
    while True:
        start = int(torch.randint(width, (), generator=generator))
        rows = tokens[start : start + (len(tokens) - start) // width * width].view(-1, width)
        rows = torch.nn.functional.pad(rows, (1, 0), value=0)
        order = torch.randperm(len(rows), generator=generator)
        for chosen in order[: len(order) // batch_size * batch_size].view(-1, batch_size):
            yield rows[chosen]


def new_model(n_layers: int, n_context: int, dropout: float) -> GPTNeoForCausalLM:
    """Returns a randomly initialised GPT-Neo with the widths of the embedded model."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = GPTNeoConfig(
        vocab_size=N_VOCABULARY,
        max_position_embeddings=n_context,
        hidden_size=D_MODEL,
        num_layers=n_layers,
        num_heads=4,
        intermediate_size=4 * D_MODEL,
        attention_types=[[["global"], n_layers]],
        window_size=n_context,
        resid_dropout=dropout,
        embed_dropout=dropout,
        attention_dropout=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPTNeoForCausalLM(config)


def token_loss(model: GPTNeoForCausalLM, batch: Tensor) -> Tensor:
    """Returns the mean cross-entropy in nats per predicted token."""
    logits = model(batch, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def evaluation_loss(model: GPTNeoForCausalLM, tokens: Tensor, n_sequences: int = 512) -> float:
    """Returns the loss on the first ``n_sequences`` sequences of ``tokens``, with the model's context."""
    model.eval()
    width = model.config.max_position_embeddings - 1
    rows = tokens[: len(tokens) // width * width].view(-1, width)[:n_sequences]
    batches = torch.nn.functional.pad(rows, (1, 0), value=0).split(64)
    losses = [token_loss(model, batch).item() * len(batch) for batch in batches]
    model.train()
    return sum(losses) / len(rows)


def optimizers(model: GPTNeoForCausalLM, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices of blocks, and AdamW for embeddings, norms and biases."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    chosen = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(inner, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=lr, weight_decay=0.0, betas=(0.9, 0.95)),
    ]


def train(model: GPTNeoForCausalLM, tokens: Tensor, held_out: Tensor, args: argparse.Namespace) -> None:
    """Trains the model in place in bfloat16 autocast, with linear warm-up and linear decay to zero."""
    generator = torch.Generator().manual_seed(args.seed)
    batches = sequences(tokens, generator, args.batch_size, args.context)
    n_steps = int(args.epochs * len(tokens) / (args.batch_size * args.context))
    steppers = optimizers(model, args.lr, args.weight_decay)
    loss_of = torch.compile(token_loss) if args.compile else token_loss
    begin = time.time()
    for step in range(n_steps):
        lr = args.lr * min((step + 1) / 100, 1.0, (n_steps - step) / (0.6 * n_steps))
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = lr
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        if step % 100 == 0 or step == n_steps - 1:
            score = evaluation_loss(model, held_out, 128)
            print(f"step {step}/{n_steps}  loss {loss.item():.3f}  held out {score:.3f}  {time.time() - begin:.0f} s")
        if not math.isfinite(loss.item()):
            raise RuntimeError(
                f"The loss must be finite, got {loss.item()} at step {step}. Lower --lr (it was {args.lr})."
            )


def save(model: GPTNeoForCausalLM, tokenizer: Tokenizer, out: Path, facts: dict[str, object]) -> None:
    """Writes the weights (float16, the tied embedding once), the configuration, the tokenizer and ``facts``."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in model.state_dict().items() if _is_stored(name)}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")


def _is_stored(name: str) -> bool:
    # The output matrix is tied to the embedding, and the causal mask is computed from the configuration.
    return name != "lm_head.weight" and not name.endswith((".attn.attention.bias", ".masked_bias"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--stdlib", type=Path, default=None, help="library folder to read, if not this interpreter's")
    parser.add_argument("--layers", type=int, default=4, help="number of layers")
    parser.add_argument("--context", type=int, default=256, help="tokens in a sequence")
    parser.add_argument("--epochs", type=float, default=16, help="passes over the training text")
    parser.add_argument("--batch-size", type=int, default=32, help="sequences in a step")
    parser.add_argument("--lr", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="decoupled weight decay of the matrices")
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout of embeddings and residual branches")
    parser.add_argument("--compile", action="store_true", help="compile the training step (needs a C++ compiler)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    args = parser.parse_args()
    if not hasattr(torch.optim, "Muon"):
        parser.error(f"training needs PyTorch 2.9 or newer for its optimiser Muon, but PyTorch is {torch.__version__}")

    torch.manual_seed(args.seed)
    files = {split: source_files(split, args.stdlib) for split in ("train", "evaluation")}
    tokenizer = train_tokenizer(files["train"])
    tokens, held_out = pack(tokenizer, files["train"]), pack(tokenizer, files["evaluation"])
    print(f"{len(tokens):,} training tokens, {len(held_out):,} for evaluation")
    model = new_model(args.layers, args.context, args.dropout)
    begin = time.time()
    train(model, tokens, held_out, args)
    model.half().float()
    facts = {
        "evaluation_loss": round(evaluation_loss(model, held_out), 4),
        "training_tokens": len(tokens),
        "evaluation_tokens": len(held_out),
        "layers": args.layers,
        "context": args.context,
        "epochs": args.epochs,
        "seconds": round(time.time() - begin),
        "python": platform.python_version(),
    }
    save(model, tokenizer, args.out, facts)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
