"""Plans a run on several GPUs: memory of each, bytes of a step and expected time, for all meshes of data x latents.

    python -m benchmarks.plan --gpus 64 --d-in 4096 --d-out 4096 --n-latents 1048576 --k 64 --n-tokens 65536

Nothing is measured. Memory and traffic follow from the shapes, and are verified against a fake process group. Times are
those of matrix products at ``--flops`` and of messages at the given bandwidths, one after the other, without overlap.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.report import table

GIB = 2**30
RULES = ("threshold", "topk", "batch_topk")
"""Activations: with thresholds (ReLU, JumpReLU, Gated), TopK per token, or BatchTopK."""

SELECTION_BYTES = {2: 8 * (2**11 + 2**5), 4: 8 * (2 * 2**11 + 2**10), 8: 8 * (5 * 2**11 + 2**9)}
"""Bytes of the counts that find the limit of BatchTopK over several parts of a batch, by the size of a number."""

BLOCK_BYTES = 2**25
"""Pre-activations are computed in blocks of this size (``sparsedict.kernels``)."""


OVER_DATA = ("gradients of rows", "gradients of common weights", "firing counts", "counts of the selection")
"""Purposes of the messages between GPUs that hold the same latents."""


@dataclass(frozen=True)
class Job:
    """A training run.

    Args:
        d_in: Width of the activations that the dictionary reads.
        d_out: Width of the activations that it reproduces.
        n_latents: Number of latents.
        k: Average number of active latents per token.
        n_tokens: Tokens of a step, over all GPUs.
        rule: How latents are selected; one of `RULES`.
        item: Bytes per number.
        has_offset: Whether the encoder's input has a learned offset.
        model_parameters: Parameters of the model that produces the activations, up to the last site.
        model_item: Bytes per number of the model.
    """

    d_in: int
    d_out: int
    n_latents: int
    k: int
    n_tokens: int
    rule: str = "topk"
    item: int = 4
    has_offset: bool = True
    model_parameters: int = 0
    model_item: int = 2


@dataclass(frozen=True)
class Hardware:
    """Speeds of the hardware, in units per second.

    Args:
        flops: Multiplications and additions of matrix products on one GPU.
        memory: Bytes that a GPU reads from its own memory.
        link: Bytes that a GPU sends to GPUs of the same machine.
        network: Bytes that a GPU sends to other machines.
        gpus_per_machine: Number of GPUs of a machine.
        capacity: Bytes of memory of a GPU.
    """

    flops: float = 4e14
    memory: float = 2e12
    link: float = 3e11
    network: float = 2.5e10
    gpus_per_machine: int = 8
    capacity: float = 80 * GIB


@dataclass(frozen=True)
class Plan:
    """A job on a mesh of ``n_data`` x ``n_shards`` GPUs. GPUs that share the latents are neighbours.

    Args:
        job: The job.
        n_data: Number of parts of each batch.
        n_shards: Number of slices of the latents.
        hardware: The hardware.
    """

    job: Job
    n_data: int
    n_shards: int
    hardware: Hardware = field(default_factory=Hardware)

    @property
    def n_tokens(self) -> int:
        """Tokens of a step on one GPU."""
        return -(-self.job.n_tokens // self.n_data)

    @property
    def n_latents(self) -> int:
        """Latents on one GPU."""
        return -(-self.job.n_latents // self.n_shards)

    @property
    def n_shared(self) -> int:
        """Parameters that every GPU has: the decoder bias, which is also the default offset."""
        return self.job.d_out

    @property
    def n_parameters(self) -> int:
        """Parameters on one GPU."""
        return self.n_latents * (self.job.d_in + self.job.d_out + 1) + self.n_shared

    def memory(self) -> dict[str, int]:
        """Returns the bytes that one GPU holds, by purpose."""
        job = self.job
        n_candidates = self.n_tokens * min(job.k, self.n_latents)
        return {
            "weights": self.n_parameters * job.item,
            "gradients": self.n_parameters * job.item,
            "optimiser": 2 * self.n_parameters * job.item,
            "last good weights": self.n_parameters * job.item,
            "activations": self.n_tokens * (job.d_in + 4 * job.d_out) * job.item,
            "candidates": n_candidates * (2 * job.item + 16) * (1 + self.n_shards * (job.rule != "threshold")),
            "block": min(BLOCK_BYTES, self.n_tokens * self.n_latents * job.item),
            "model": job.model_parameters * job.model_item,
        }

    def collectives(self) -> dict[str, int]:
        """Returns the bytes that one GPU passes to the collectives of a step, by purpose."""
        job, found = self.job, {}
        if self.n_shards > 1:
            found["reconstruction"] = self.n_tokens * job.d_out * job.item
            if job.rule == "topk":
                found["candidates"] = self.n_tokens * min(job.k, self.n_latents) * job.item
            if job.rule == "batch_topk" and self.n_data == 1:
                found["candidates"] = min(job.k * self.n_tokens, self.n_tokens * self.n_latents) * job.item
            if job.has_offset:
                found["gradient of the offset"] = job.d_in * job.item
        if self.n_data > 1:
            found["gradients of rows"] = (self.n_parameters - self.n_shared) * job.item
            found["gradients of common weights"] = self.n_shared * job.item
            found["firing counts"] = 8 * self.n_latents
            if job.rule == "batch_topk":
                found["counts of the selection"] = SELECTION_BYTES[job.item]
        return found

    def checkpoint(self) -> dict[str, int]:
        """Returns the bytes of a checkpoint that one GPU writes, by purpose: those of the rows that it holds.

        GPUs with the same rows share them, so one GPU writes ``1 / n_data`` of its rows on average.
        """
        per_latent = self.job.d_in + self.job.d_out + 1
        rows = self.n_latents * per_latent * self.job.item
        # Directly after a record, the last good weights equal the weights and aren't written.
        whole = {"weights": rows, "optimiser": 2 * rows, "last good weights": rows, "counters": 8 * self.n_latents}
        return {name: -(-size // self.n_data) for name, size in whole.items()}

    def wire(self) -> dict[str, float]:
        """Returns the bytes that one GPU sends in a step, by purpose.

        A ring sends ``2 (n - 1) / n`` times the bytes of a sum, and ``n - 1`` times the part of each GPU of a gather.
        """
        shards, data = self.n_shards, self.n_data
        over_data = 2 * (data - 1) / data
        factors = {"candidates": shards - 1.0, **dict.fromkeys(OVER_DATA, over_data)}
        ring = 2 * (shards - 1) / shards
        return {name: size * factors.get(name, ring) for name, size in self.collectives().items()}

    def seconds(self) -> dict[str, float]:
        """Returns the expected seconds of a step, by purpose."""
        job, hardware = self.job, self.hardware
        n_entries = self.n_tokens * job.k / self.n_shards
        inside = self.n_shards <= hardware.gpus_per_machine
        shard_speed = hardware.link if inside else hardware.network
        data_speed = hardware.link if self.n_data * self.n_shards <= hardware.gpus_per_machine else hardware.network
        wire = self.wire()
        gradients = sum(wire.pop(name, 0.0) for name in OVER_DATA)
        return {
            # GPUs that share the latents need the same activations. Each of them runs the model.
            "model": 2 * job.model_parameters * self.n_tokens / hardware.flops,
            "encoder": 2 * self.n_tokens * job.d_in * self.n_latents / hardware.flops,
            # Decoding, its two gradients and the gradient of the encoder read or write one row for each entry.
            "sparse products": n_entries * (job.d_in + 3 * job.d_out) * job.item / hardware.memory,
            # Adam reads four numbers per parameter, and writes three.
            "optimiser": 7 * self.n_parameters * job.item / hardware.memory,
            "messages between shards": sum(wire.values()) / shard_speed,
            "gradients": gradients / data_speed,
        }

    @property
    def fits(self) -> bool:
        """Whether the memory of a GPU is sufficient, with a tenth to spare."""
        return sum(self.memory().values()) <= 0.9 * self.hardware.capacity


def meshes(n_gpus: int) -> Iterator[tuple[int, int]]:
    """Yields the meshes ``(n_data, n_shards)`` of a number of GPUs."""
    yield from ((n_gpus // n_shards, n_shards) for n_shards in range(1, n_gpus + 1) if n_gpus % n_shards == 0)


def best(job: Job, n_gpus: int, hardware: Hardware) -> list[Plan]:
    """Returns the plans for a number of GPUs, those that fit first, then by the time of a step."""
    plans = [
        Plan(job, *mesh, hardware) for mesh in meshes(n_gpus) if mesh[1] <= job.n_latents and mesh[0] <= job.n_tokens
    ]
    return sorted(plans, key=lambda plan: (not plan.fits, sum(plan.seconds().values())))


def rows(plans: list[Plan]) -> list[tuple[str, ...]]:
    """Returns a table of plans."""
    found = [
        (
            "data x latents",
            "GiB per GPU",
            "MB sent per step",
            "ms per step",
            "largest part",
            "tokens per second",
            "fits",
        )
    ]
    for plan in plans:
        seconds = plan.seconds()
        total = sum(seconds.values())
        largest = max(seconds, key=lambda name: seconds[name])
        found.append(
            (
                f"{plan.n_data} x {plan.n_shards}",
                f"{sum(plan.memory().values()) / GIB:,.1f}",
                f"{sum(plan.wire().values()) / 1e6:,.0f}",
                f"{1e3 * total:,.1f}",
                f"{largest} ({seconds[largest] / total:.0%})",
                f"{plan.job.n_tokens / total:,.0f}",
                "yes" if plan.fits else "no",
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", nargs="+", type=int, default=[64, 1000], help="numbers of GPUs (default: 64 1000)")
    parser.add_argument("--d-in", type=int, default=4096, help="width of the inputs (default: 4,096)")
    parser.add_argument("--d-out", type=int, default=4096, help="width of the outputs (default: 4,096)")
    parser.add_argument("--n-latents", type=int, default=2**20, help="number of latents (default: 1,048,576)")
    parser.add_argument("--k", type=int, default=64, help="active latents per token (default: 64)")
    parser.add_argument("--n-tokens", type=int, default=2**17, help="tokens of a step (default: 131,072)")
    parser.add_argument("--rule", choices=RULES, default="topk", help="how latents are selected (default: topk)")
    parser.add_argument("--item", type=int, default=4, help="bytes per number (default: 4)")
    parser.add_argument(
        "--model-parameters", type=int, default=8 * 10**9, help="parameters of the model (default: 8,000,000,000)"
    )
    for name, what in (
        ("flops", "products"),
        ("memory", "own memory"),
        ("link", "same machine"),
        ("network", "others"),
    ):
        default = getattr(Hardware(), name)
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{what}, per second (default: {default:g})")
    parser.add_argument("--capacity", type=float, default=80, help="memory of a GPU in GiB (default: 80)")
    parser.add_argument("--gpus-per-machine", type=int, default=8, help="GPUs of a machine (default: 8)")
    parser.add_argument("--shown", type=int, default=6, help="number of meshes to print (default: 6)")
    args = parser.parse_args()
    speeds = {name: getattr(args, name) for name in ("flops", "memory", "link", "network", "gpus_per_machine")}
    hardware = Hardware(**speeds, capacity=args.capacity * GIB)
    names = ("d_in", "d_out", "n_latents", "k", "n_tokens", "rule", "item", "model_parameters")
    job = Job(**{name: getattr(args, name) for name in names})
    for n_gpus in args.gpus:
        plans = best(job, n_gpus, hardware)
        print(f"{n_gpus} GPUs\n{table(rows(plans[: args.shown]))}\n")
        first = plans[0]
        parts = {
            "GiB": first.memory(),
            "MB passed to collectives": first.collectives(),
            "GiB of a checkpoint": first.checkpoint(),
        }
        for kind, sizes in parts.items():
            unit = GIB if kind.startswith("GiB") else 1e6
            print(f"{kind} of {plans[0].n_data} x {plans[0].n_shards}")
            print(table([("part", kind), *((name, f"{size / unit:,.2f}") for name, size in sizes.items())]) + "\n")


if __name__ == "__main__":
    main()
