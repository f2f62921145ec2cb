"""How well attribution graphs of the embedded model's neurons predict interventions, for several prompts.

``python -m benchmarks.tracing`` makes a graph of the most probable next token of each prompt, ablates the 16 most
influential neurons one at a time, and compares the predicted changes of the logit with those of the model itself. It
repeats the interventions with held norms and with held attention patterns.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sparsedict as sd

RESULTS = Path(__file__).parent / "results" / "tracing.json"
PROMPTS = (
    "class A:\n    def area(",
    "class A:\n    def __init__(self, x):\n        self.x =",
    "def f(x):\n    if x is None:\n",
    "for i",
    "    print(len(items",
    "from __future__ import",
    "try:\n    import json\nexcept",
    "def add(self, other):\n    return self",
)


@dataclass(frozen=True)
class Row:
    """The interventions on the graph of one prompt.

    Attributes:
        prompt: Text of the prompt.
        token: Text of the most probable next token.
        probability: Its probability.
        correlation: Correlation of predicted with measured changes of its logit.
        error: Median relative error of the predictions.
        held: Correlation and median relative error by what is held in the model: norms, attention patterns, or both.
        same_sign: Share of the predictions with the sign of the measured change.
        replacement: Replacement score of the graph.
    """

    prompt: str
    token: str
    probability: float
    correlation: float
    error: float
    held: dict[str, tuple[float, float]]
    same_sign: float
    replacement: float


def measure(model: Any, tokenizer: Any, prompt: str, max_latents: int) -> Row:
    """Makes the graph of a prompt and intervenes on its neurons."""
    sites = sd.circuits.find_sites(model)
    neurons = {name: site.neurons for name, site in sites.items()}
    tokens = tokenizer(prompt, return_tensors="pt").input_ids
    targets = sd.circuits.TopLogits(at_most=1)
    graph = sd.circuits.attribute(
        sites, neurons, tokens, targets=targets, max_latents=max_latents, tokenizer=tokenizer, progress=False
    )
    target, check = graph.nodes[int(graph.targets[0])], graph.checked
    assert check is not None
    assert target.probability is not None
    assert target.token is not None
    return Row(
        prompt,
        tokenizer.decode([target.token]),
        target.probability,
        check.correlation,
        check.median_relative_error,
        {held: (correlation, error) for held, correlation, error in check.rows() if held != "nothing"},
        float((check.predicted.sign() == check.unfrozen.sign()).float().mean()),
        graph.replacement_score,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS, metavar="TEXT")
    parser.add_argument("--max-latents", type=int, default=256, help="neurons with incoming edges")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    model, tokenizer = sd.zoo.load_model(), sd.zoo.load_tokenizer()
    rows = [measure(model, tokenizer, prompt, options.max_latents) for prompt in options.prompts]
    print("| prompt | next token | probability | nothing held | norms held | attention held | both held | same sign |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        pairs = [(row.correlation, row.error), *row.held.values()]
        numbers = " | ".join(f"{correlation:.2f}, {error:.0%}" for correlation, error in pairs)
        print(f"| `{row.prompt!r}` | `{row.token!r}` | {row.probability:.2f} | {numbers} | {row.same_sign:.0%} |")
    content = {"max_latents": options.max_latents, "rows": [asdict(row) for row in rows]}
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
