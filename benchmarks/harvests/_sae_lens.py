"""SAELens: its `LanguageModelSAETrainingRunner` on the Hugging Face model, tokens from a tokenised data set."""

from __future__ import annotations

from benchmarks.harvests import BUFFER, CONTEXT, Loaded, Reconstruct, Run, Task, number_tokenizer


def variants(task: Task) -> list[tuple[str, ...]]:
    return [(), ("sparse",)] if task.kind == "autoencoder" else []


def prepare(task: Task, loaded: Loaded, options: tuple[str, ...]) -> Run:
    from datasets import Dataset
    from sae_lens import (  # pyright: ignore[reportMissingImports]
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
        TopKTrainingSAEConfig,
    )
    from sae_lens.load_model import HookedProxyLM  # pyright: ignore[reportMissingImports]

    tokenizer = number_tokenizer(loaded.n_in_vocabulary(), task.bos)
    data = Dataset.from_dict({"tokens": loaded.sequences(-(-task.n_tokens // (CONTEXT - 1))).tolist()})
    width = loaded.model.config.hidden_size
    sparse = "sparse" in options

    def run() -> Reconstruct:
        settings = LanguageModelSAERunnerConfig(
            sae=TopKTrainingSAEConfig(
                d_in=width,
                d_sae=task.n_latents,
                k=task.k,
                use_sparse_activations=sparse,
                rescale_acts_by_decoder_norm=not sparse,
                device=task.device,
            ),
            model_class_name="AutoModelForCausalLM",
            hook_name=task.path,
            streaming=False,
            context_size=CONTEXT,
            # Counted in sequences, whatever the name says.
            n_batches_in_buffer=BUFFER // CONTEXT,
            training_tokens=task.n_steps * task.batch_size,
            train_batch_size_tokens=task.batch_size,
            exclude_special_tokens=[task.bos],
            device=task.device,
            autocast=task.device.startswith("cuda"),
            seed=task.seed,
            logger=LoggingConfig(log_to_wandb=False),
            checkpoint_path=None,
            output_path=None,
            verbose=False,
        )
        model = HookedProxyLM(loaded.model, tokenizer, hook_names=[task.path])
        sae = LanguageModelSAETrainingRunner(settings, override_dataset=data, override_model=model).run()
        sae.eval()
        return sae

    return run
