"""Are scores of latents calibrated, and what do they say of dictionaries? ``python -m benchmarks.scores``.

The first table is the calibration, on the text of the embedded model. Planted latents fire on one word, or on the token
after this word. Shuffled latents are the planted ones on random tokens. Random directions are latents of a TopK
dictionary with random weights, which reads the MLP's inputs. A score is calibrated if planted latents score high and
shuffled ones at chance. Intruder and example embedding depend on a representation: states of the model, or, in the
rows with ideal states, a random direction for each token and each previous token. The language model of detection and
fuzzing is a program that knows the rules.

The second table compares a distiller, an autoencoder and the neurons of one MLP of the embedded model. Stability needs
SciPy. Values are means over latents with 95 % intervals over latents. One run, one pair of seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sparsedict as sd
from sparsedict.analysis import scores
from sparsedict.analysis.scores import LatentScores, TokenLatents
from sparsedict.display import aligned

RESULTS = Path(__file__).parent / "results" / "scores.json"
LAYER = 2
N_PLANTED = 20
D_IDEAL = 64
PLANTED = {"planted, the word": slice(0, N_PLANTED), "planted, the token after it": slice(N_PLANTED, 2 * N_PLANTED)}
"""The rows of planted latents, and their latents."""
Rows = dict[str, dict[str, LatentScores]]


def site() -> sd.Site:
    """Returns the MLP whose dictionaries are compared."""
    return sd.Site(sd.zoo.load_model(), f"transformer.h.{LAYER}.mlp", exclude_tokens=[0])


def trained(n_latents: int, k: int, n_tokens: int) -> dict[str, sd.Dictionary]:
    """Returns a distiller and an autoencoder, each under two seeds."""
    trainees = {}
    for seed in range(2):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {"activation": sd.TopK(k), "decoder_norm": sd.UnitNorm()}
        trainees[f"distiller {seed}"] = sd.Trainee(sd.SparseDistiller(128, 128, n_latents, **parts))
        trainees[f"autoencoder {seed}"] = sd.Trainee(sd.SparseAutoencoder(128, n_latents, **parts))
    sd.fit_many(trainees, sd.ActivationStream(site(), sd.zoo.tokens("train")), n_tokens=n_tokens, progress=False)
    return {name: trainee.dictionary for name, trainee in trainees.items()}


def planted(text: TokenLatents) -> tuple[TokenLatents, list[str]]:
    """Returns latents that fire on known rules on the tokens of a text, and the string that each rule is about."""
    tokens = text.tokens
    chosen = words(text)
    previous = torch.nn.functional.pad(tokens[:, :-1], (1, 0), value=-1)
    rules = torch.stack([tokens == t for t in chosen] + [previous == t for t in chosen], -1)
    strength = 0.5 + torch.rand(rules.shape, generator=torch.Generator().manual_seed(0))
    latents = TokenLatents.from_dense(rules * strength, tokens, kept=text.kept, strings=text.strings)
    return latents, [named(text, t) for t in chosen]


def words(text: TokenLatents) -> list[int]:
    """Returns the most frequent tokens that a program finds in the text, because they aren't part of other words."""
    assert text.strings is not None
    rows = [text.strings(row[row >= 0].tolist()) for row in text.tokens]
    lines, counts = ["".join(row) for row in rows], Counter(name for row in rows for name in row)
    by_name = {named(text, t): t for t in text.tokens.unique().tolist() if t >= 0}
    found = (name for name, _ in counts.most_common() if name[0] == " " and name[1:].isalpha())
    exact = (name for name in found if sum(len(re.findall(pattern(name), line)) for line in lines) == counts[name])
    return [by_name[name] for name in itertools.islice(exact, N_PLANTED)]


def pattern(name: str) -> str:
    """Returns the regular expression by which the program finds a word."""
    return rf"{re.escape(name)}(?![A-Za-z0-9])"


def ideal(text: TokenLatents) -> Tensor:
    """Returns states that know each token and the previous one, and nothing else."""
    tokens = text.tokens + 1
    previous = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
    directions = torch.randn(2, int(tokens.max()) + 1, D_IDEAL, generator=torch.Generator().manual_seed(0))
    return torch.cat([directions[0][tokens.flatten()], directions[1][previous.flatten()]], 1)


def named(text: TokenLatents, token: int) -> str:
    assert text.strings is not None
    return text.strings([token])[0]


def oracle(prompts: list[str]) -> list[str]:
    """Answers as a language model that takes the most frequent marked token for the explanation."""
    return [_explanation(prompt) if "EXPLANATION:" in prompt else _numbers(prompt) for prompt in prompts]


def _explanation(prompt: str) -> str:
    marked = Counter(re.findall(r"<<(.*?)>>", "\n".join(_lines(prompt))))
    return f"EXPLANATION: {json.dumps(marked.most_common(1)[0][0])}"


def _numbers(prompt: str) -> str:
    found = re.search(r'^(".*")$', prompt, re.MULTILINE)
    assert found is not None
    token = json.loads(found[1])
    wanted = re.escape(f"<<{token}>>") if "marked tokens" in prompt else pattern(token)
    return str([number for number, line in enumerate(_lines(prompt), 1) if re.search(wanted, line)])


def _lines(prompt: str) -> list[str]:
    return re.findall(r"^\d+\. (.*)$", prompt, re.MULTILINE)


def measured(text: TokenLatents, states: Tensor) -> dict[str, LatentScores]:
    """Returns the scores of latents that need no language model."""

    def represent(_: TokenLatents, positions: Tensor) -> Tensor:
        return states[positions]

    start = time.process_time()
    found = {"rule": scores.RuleScore()(text)}
    print(f"rule score: {1000 * (time.process_time() - start) / text.n_latents:.1f} s of CPU per 1,000 latents")
    found["intruder"] = scores.IntruderScore(represent)(text)
    found["example embedding"] = scores.ExampleEmbeddingScore(represent)(text)
    return found


def known(text: TokenLatents, states: Tensor) -> Rows:
    """Returns the scores of planted and shuffled latents."""
    latents, _ = planted(text)
    kinds = {name: latents.latents(torch.arange(2 * N_PLANTED)[own]) for name, own in PLANTED.items()}
    rows = {}
    for name, own in {**kinds, "shuffled": latents.shuffled()}.items():
        rows[name] = measured(own, states)
        if name in kinds:
            rows[f"{name}, ideal states"] = measured(own, ideal(text))
        if name != list(kinds)[1]:  # the program finds words, and not the tokens after them
            rows[name]["detection"] = scores.DetectionScore(oracle)(own.latents(torch.arange(N_PLANTED)))
            rows[name]["fuzzing"] = scores.FuzzingScore(oracle)(own.latents(torch.arange(N_PLANTED)))
    return rows


def nulls(text: TokenLatents, states: Tensor, n: int) -> dict[str, dict[str, float]]:
    """Returns the mean of each score over several shuffles of the planted latents, its standard error, and chance."""
    latents, _ = planted(text)
    found: dict[str, list[LatentScores]] = {}
    for seed in range(n):
        own = latents.shuffled(seed=seed)
        few = own.latents(torch.arange(N_PLANTED))
        row = {
            **measured(own, states),
            "detection": scores.DetectionScore(oracle)(few),
            "fuzzing": scores.FuzzingScore(oracle)(few),
        }
        for name, score in row.items():
            found.setdefault(name, []).append(score)
    rows = {}
    for name, shuffles in found.items():
        means = torch.tensor([score.mean.value for score in shuffles])
        chance = sum(score.mean_chance for score in shuffles) / n
        rows[name] = {"mean": float(means.mean()), "error": float(means.std()) / n**0.5, "chance": chance}
    return rows


def random_directions(text: TokenLatents, states: Tensor, n_latents: int, k: int) -> Rows:
    """Returns the scores of latents with random weights."""
    torch.manual_seed(0)
    random = sd.SparseDistiller(128, 128, n_latents, activation=sd.TopK(k), decoder_norm=sd.UnitNorm())
    latents = scores.record(site(), random, text.tokens, strings=text.strings)
    return {"random directions": measured(latents, states)}


def compared(dictionaries: dict[str, sd.Dictionary], text: TokenLatents, states: Tensor) -> Rows:
    """Returns the scores of the dictionaries of the first seed and of the neurons."""
    place = site()
    rows = {}
    for kind in ("distiller", "autoencoder"):
        own = scores.record(place, dictionaries[f"{kind} 0"], text.tokens, strings=text.strings)
        rows[kind] = measured(own, states)
        try:
            rows[kind]["stability"] = scores.stability(dictionaries[f"{kind} 0"], dictionaries[f"{kind} 1"])
        except ImportError as error:
            print(error)
    neurons = scores.record(place, place.neurons, text.tokens, strings=text.strings, above=0.0)
    rows["neurons"] = measured(neurons, states)
    return rows


def table(rows: Rows) -> str:
    """Returns the means as text. Chance is that of the rule score; see the documentation for the others."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    shown = {name: {c: str(row[c].mean) if c in row else "-" for c in columns} for name, row in rows.items()}
    for name, cells in shown.items():
        cells["grade"] = f"{float(rows[name]['rule'].columns['grade'].nanmean()):.2f}"
        cells["chance"] = f"{rows[name]['rule'].mean_chance:.3f}"
    return aligned(shown, ["rule", "chance", "grade", *columns[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-latents", type=int, default=512)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--n-train", type=int, default=500_000, help="number of training tokens")
    parser.add_argument("--n-tokens", type=int, default=100_000, help="number of tokens that scores read")
    parser.add_argument("--n-shuffles", type=int, default=40, help="number of shuffles of which the mean is stored")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only-planted", action="store_true", help="measure planted latents, and keep other results")
    given = parser.parse_args()
    strings = sd.pages.token_strings(sd.zoo.load_tokenizer())
    tokens = sd.zoo.tokens("evaluation", n_tokens=given.n_tokens)
    text = scores.record(site(), site().neurons, tokens, strings=strings, latents=[0])
    last = "transformer.h.3:out"
    stream = sd.Site(site().model, reads=last, writes=last)
    states = scores.SiteStates(stream)(text, torch.arange(tokens.numel()))
    results = json.loads(given.out.read_text()) if given.only_planted else {}
    results["nulls"] = {"n_shuffles": given.n_shuffles, "scores": nulls(text, states, given.n_shuffles)}
    measured_rows = {"calibration": known(text, states)}
    if not given.only_planted:
        settings = {"n_latents": given.n_latents, "k": given.k, "n_train": given.n_train, "n_tokens": tokens.numel()}
        results["settings"] = settings
        measured_rows["calibration"] |= random_directions(text, states, given.n_latents, given.k)
        measured_rows["dictionaries"] = compared(trained(given.n_latents, given.k, given.n_train), text, states)
    for name, rows in measured_rows.items():
        print(f"\n{name}\n{table(rows)}", flush=True)
        results[name] = results.get(name, {}) | {row: _summaries(found) for row, found in rows.items()}
    for name, row in results["nulls"]["scores"].items():
        print(f"shuffled, {given.n_shuffles} times, {name}: {row['mean']:.4f} ± {row['error']:.4f}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n")


def _summaries(found: dict[str, LatentScores]) -> dict[str, Any]:
    return {name: summary(own) for name, own in found.items()}


def summary(found: LatentScores) -> dict[str, Any]:
    """Returns the means of a score, without the numbers of single latents."""
    kept = {name: value for name, value in found.to_dict().items() if name not in ("per_latent", "words")}
    grades = found.columns.get("grade")
    if grades is not None:
        kept["grades"] = [int((grades == grade).sum()) for grade in range(5)]
    return kept


if __name__ == "__main__":
    main()
