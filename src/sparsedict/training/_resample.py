"""`Resample`, the step hook that resamples dead latents."""

from __future__ import annotations

from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparsedict import checks
from sparsedict.dictionaries import Dictionary, ForwardPass, Rows
from sparsedict.kernels import StepContext, first_of_equal
from sparsedict.latents import SparseLatents
from sparsedict.parallel import WholeBatch
from sparsedict.training._scale_to_fire import evaluate_rows, scale_to_fire_
from sparsedict.training._step_hook import StepHook

DecoderRows = Literal["targets", "errors"]
ENCODER_SHARE = 0.2
"""Norm of a new encoder row, relative to the mean norm of the encoder rows of live latents."""


@dataclass(frozen=True)
class Resample(StepHook):
    r"""Reinitialises dead latents with badly reconstructed inputs, every ``every`` steps.

    The current dictionary reconstructs the next ``n_inputs`` tokens, with squared errors
    :math:`\ell_t = |y_t - \hat y_t|^2`. A token is drawn for each dead latent, without replacement and with a
    probability proportional to :math:`\ell_t^2`. Equal inputs are used once. If there are more dead latents than
    tokens, the remaining latents stay dead. For each drawn token

    - the decoder row becomes the target of the token minus the part of the output that depends on no latent, scaled
      to norm 1; with ``decoder_rows="errors"``, the target minus the whole reconstruction;
    - the encoder row becomes the input of the token, scaled to 0.2 times the mean norm of the encoder rows of live
      latents;
    - the encoder bias becomes 0;
    - the optimiser state of these rows becomes 0, including the step counts of ``LazyAdam``.

    If a dictionary doesn't subtract its decoder bias from its input, the inputs aren't centred, and the new row would
    fire on every token. In this case the mean input is subtracted from the input of the token, and the encoder bias is
    chosen such that the pre-activation is 0 at the mean input.

    The source describes ReLU, where a new latent fires on its token. With TopK or a threshold the pre-activation of a
    new latent is too small to fire, and the latent would die again. In this case encoder row and bias are multiplied
    by a common factor, so that the pre-activation on the token is twice the smallest active pre-activation of this
    token. If no latent is active on the token, the smallest active pre-activation of all tokens is used. Learned
    parameters of the activation, such as the threshold of JumpReLU, are copied from the latent with this smallest
    pre-activation.

    If one direction dominates the targets, the published decoder rows point in this direction, although other latents
    already reconstruct it. Many resampled latents then disturb training, and errors as decoder rows don't.

    Args:
        every: Number of steps between resamplings. The last step of a run doesn't resample.
        dead_after: A latent is dead after this many tokens without firing.
        until: Step after which no latent is resampled, because a new latent needs time to train; or a fraction of the
            steps of the run, such as 0.75. ``None`` resamples until the end of the run.
        seed: Random seed of the draw.
        n_inputs: Number of candidate tokens, rounded up to whole batches; 819,200 in the source. They stay in memory
            until they have been trained on.
        decoder_rows: Origin of new decoder rows: ``"targets"``, as in the source, or ``"errors"``.
        idle_tokens: Former name of ``dead_after``.

    Source: Bricken et al., "Towards Monosemanticity", 2023, appendix on neuron resampling.
    """

    every: int
    dead_after: int = 500_000
    until: int | float | None = None
    seed: int = 0
    n_inputs: int = 32_768
    _: KW_ONLY
    decoder_rows: DecoderRows = "targets"
    idle_tokens: InitVar[int | None] = None

    def __post_init__(self, idle_tokens: int | None) -> None:
        checks.renamed(self, "dead_after", "idle_tokens", idle_tokens)
        for name in ("every", "dead_after", "n_inputs"):
            checks.set_at_least(self, name, 1)
        if self.until is not None:
            until = checks.number("until", self.until)
            object.__setattr__(self, "until", until)
            if isinstance(until, float):
                checks.in_range("until", until, 0.0, 1.0, open_low=True)
            else:
                checks.at_least("until", until, 1)
        checks.set_at_least(self, "seed", 0)
        checks.one_of("decoder_rows", self.decoder_rows, get_args(DecoderRows))

    def check(self, dictionary: Dictionary) -> None:
        if not dictionary.has_affine_encoder:
            raise ValueError(
                "Resample writes encoder rows, so it needs a dictionary with an affine encoder, got a "
                f"{type(dictionary).__name__}. Use the penalty sd.AuxK() instead."
            )
        written = {id(weight) for weight in _matrices(dictionary)} | {id(dictionary.encoder_bias)}
        for name, weight in dictionary.named_parameters():
            if id(weight) in written and not weight.requires_grad:
                raise ValueError(
                    f"Resample writes encoder rows, encoder biases and decoder rows, but `{name}` is frozen "
                    "(requires_grad=False). Use the penalty sd.AuxK() instead."
                )

    @torch.no_grad()
    def __call__(self, out: ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        if (out.step + 1) % self.every or self._is_over(out):
            return
        dictionary = out.dictionary
        dead, places, n_dead = _dead_latents(dictionary, out.tokens_since_fired >= self.dead_after)
        drawn = self._draw(out, n_dead) if n_dead else None
        if drawn is None:
            return
        inputs, targets, centre = drawn
        dead, places = dead[places < len(inputs)], places[places < len(inputs)]
        encoded = dictionary.encoder_inputs(inputs)
        live = out.tokens_since_fired < self.dead_after
        missing = dictionary.in_decoder_scale(targets - self._explained(dictionary, inputs, targets))
        for block in dictionary.blocks():
            scale = ENCODER_SHARE * _mean_norm(dictionary, block.encoder, live[block.latents])
            here, rows = block.rows_of(dead)
            if not len(here):
                continue
            own = centre[block.reads]
            new = normalize(encoded[places[here]][:, block.reads] - own, dim=-1) * scale
            block.encoder[rows] = new
            dictionary.encoder_bias[dead[here]] = -(new @ own)
            stored = block.stored_rows(missing[places[here]][:, block.writes])
            block.decoder[rows] = normalize(stored, dim=-1)
            reset_optimizer_state(optimizer, (block.encoder, block.decoder), rows)
        dictionary.constrain_decoder_()
        scale_to_fire_(dictionary, dead, places, inputs, targets)
        out.tokens_since_fired[dead] = 0
        learned = [weight for weight in dictionary.activation_state.parameters() if weight.shape == live.shape]
        reset_optimizer_state(optimizer, (dictionary.encoder_bias, *learned), dead)

    def _is_over(self, out: ForwardPass) -> bool:
        if isinstance(self.until, float):
            return out.progress >= self.until
        return self.until is not None and out.step >= self.until

    def _explained(self, dictionary: Dictionary, inputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the part of the targets that new decoder rows leave out."""
        if self.decoder_rows == "errors":
            return evaluate_rows(dictionary, inputs, targets).reconstruction
        return dictionary.reconstruct(SparseLatents.none(len(inputs), dictionary.n_latents, inputs), inputs)

    def _draw(self, out: ForwardPass, n_dead: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Returns the inputs and targets of up to ``n_dead`` drawn tokens, and the centre of encoder inputs.

        Returns ``None`` at the end of the run, if every token is reconstructed exactly, or if an error isn't finite.
        The next record reports errors that aren't finite.
        """
        parallel = out.whole.parallel
        losses, centre, n_tokens = [], torch.zeros_like(out.inputs[0]), 0
        for inputs, targets in out.sample(self.n_inputs):
            since = out.tokens_since_fired
            whole = WholeBatch.from_part(parallel, len(inputs))
            context = StepContext(training=False, whole=whole)
            again = out.dictionary.forward_pass(
                inputs, targets, step=out.step, tokens_since_fired=since, context=context
            )
            losses.append(parallel.rows((targets - again.reconstruction).double().square().sum(-1)))
            encoded = out.dictionary.encoder_inputs(inputs)
            n_tokens += whole.total
            centre += (whole.mean(encoded.mean(0)) - centre) * (whole.total / n_tokens)
        chances = torch.cat(losses) if losses else torch.zeros(1, dtype=torch.float64, device="cpu")
        largest = chances.max()
        if not (largest.isfinite() and largest > 0):
            return None
        chances = (chances / largest).square()
        # Twice as many tokens as dead latents, because some may have equal inputs.
        n_drawn = min(2 * n_dead, int((chances > 0).sum()))
        generator = torch.Generator(chances.device).manual_seed(self.seed + out.step)
        tokens = torch.multinomial(chances, n_drawn, replacement=False, generator=generator)
        inputs, targets = _gather(out, self.n_inputs, tokens)
        chosen = first_of_equal(inputs).nonzero().flatten()[:n_dead]
        if _subtracts_decoder_bias(out.dictionary, inputs[:1]):
            centre = torch.zeros_like(centre)
        return inputs[chosen], targets[chosen], centre


def _dead_latents(dictionary: Dictionary, dead: Tensor) -> tuple[Tensor, Tensor, int]:
    """Returns this rank's dead latents, their places among those of all ranks, and the number of all.

    Args:
        dictionary: The dictionary.
        dead: Which latents of this rank are dead.
    """
    found, shard = dead.nonzero().flatten(), dictionary.shard
    if shard is None:
        return found, torch.arange(len(found), device=dead.device), len(found)
    everywhere = torch.zeros(shard.n_latents, dtype=torch.int64, device=dead.device)
    everywhere[shard.latents] = dead.to(torch.int64)
    shard.peers.sum_(everywhere)
    return found, everywhere.cumsum(0)[shard.latents[found]] - 1, int(everywhere.sum())


def _mean_norm(dictionary: Dictionary, encoder: Tensor, live: Tensor) -> Tensor:
    """Returns the mean norm of the encoder rows of live latents; of all latents if none is live."""
    norms = torch.linalg.vector_norm(encoder, dim=-1)
    if dictionary.shard is None:
        return (norms[live] if bool(live.any()) else norms).mean()
    sums = [norms[live].sum(), live.sum(), norms.sum(), norms.new_tensor(len(norms))]
    of_live, n_live, of_all, n_all = dictionary.shard.peers.sum(torch.stack([own.to(norms.dtype) for own in sums]))
    return of_live / n_live if n_live > 0 else of_all / n_all


def _matrices(dictionary: Dictionary) -> list[Tensor]:
    """Returns the encoders and decoders of all blocks."""
    return [weight for block in dictionary.blocks() for weight in (block.encoder, block.decoder)]


def _gather(out: ForwardPass, n_inputs: int, tokens: Tensor) -> Rows:
    """Returns the inputs and targets of the given tokens of the sample of all ranks, in the order of ``tokens``."""
    parallel = out.whole.parallel
    inputs = out.inputs.new_zeros(len(tokens), out.inputs.shape[1])
    targets = out.targets.new_zeros(len(tokens), out.targets.shape[1])
    begin = 0
    for some_inputs, some_targets in out.sample(n_inputs):
        own = torch.arange(len(some_inputs), device=tokens.device)
        rows = torch.stack([torch.full_like(own, parallel.part), own], dim=1)
        owners = parallel.rows(rows)
        here = ((tokens >= begin) & (tokens < begin + len(owners))).nonzero().flatten()
        parts, own = owners[tokens[here] - begin].unbind(1)
        here, own = here[parts == parallel.part], own[parts == parallel.part]
        inputs[here], targets[here] = some_inputs[own], some_targets[own]
        begin += len(owners)
    return parallel.sum(inputs), parallel.sum(targets)


def _subtracts_decoder_bias(dictionary: Dictionary, x: Tensor) -> bool:
    """Returns whether the encoder subtracts the decoder bias from its input, by the derivative at one token."""
    bias, shard = dictionary.decoder_bias, dictionary.shard
    is_trained = bias.requires_grad
    bias.requires_grad_(True)
    # A shard would add this gradient to those of the next step.
    dictionary.shard = None
    try:
        with torch.enable_grad():
            encoded = dictionary.encoder_inputs(x)
            grad = torch.autograd.grad(encoded.sum(), bias, allow_unused=True)[0] if encoded.requires_grad else None
    finally:
        bias.requires_grad_(is_trained)
        dictionary.shard = shard
    return grad is not None and torch.equal(grad, -torch.ones_like(grad))


def reset_optimizer_state(optimizer: torch.optim.Optimizer, parameters: tuple[Tensor, ...], latents: Tensor) -> None:
    """Sets the optimiser state of some latents' rows to zero: moments, and step counts of single rows."""
    for parameter in parameters:
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.ndim and value.numel() in (parameter.numel(), len(parameter)):
                value[latents] = 0
