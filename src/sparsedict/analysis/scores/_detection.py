"""`DetectionScore` and `FuzzingScore`, whether a language model can use an explanation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsedict.analysis.scores._judged import LanguageModelScore, Question, question
from sparsedict.analysis.scores._token_latents import TokenLatents
from sparsedict.seeds import generator

DETECTION = """\
A unit of a neural network is active in texts that fit this explanation:
{explanation}

Below are {n} excerpts of texts, one per line. The symbol ⏎ is a line break.

{excerpts}

In which excerpts is the unit active? Answer with the numbers in brackets, such as [1, 4], or [] if there is none.
"""

FUZZING = """\
A unit of a neural network is active on tokens that fit this explanation:
{explanation}

Below are {n} excerpts of texts, one per line, with some tokens between << and >>. The symbol ⏎ is a line break.

{excerpts}

In which excerpts are the marked tokens those on which the unit is active? Answer with the numbers in brackets, \
such as [1, 4], or [] if there is none.
"""

_ORDER = int.from_bytes(b"asks", "big")


@dataclass(frozen=True)
class DetectionScore(LanguageModelScore):
    """Balanced accuracy of a language model that tells excerpts with an active latent from others by an explanation.

    Each question shows as many excerpts with the latent active as random excerpts without, all without marks. If there
    are too few excerpts without, such as for latents that fire often, others take their place, and count as excerpts
    with. A latent that is active in all excerpts has no score. See `LanguageModelScore` for the attributes.

    Source: Paulo et al., "Automatically interpreting millions of features in large language models", arXiv 2410.13928,
    2024.
    """

    name: ClassVar[str] = "detection"

    def questions(self, text: TokenLatents, explanations: tuple[str | None, ...]) -> list[Question]:
        """Returns the questions about each latent with an explanation."""
        found, random = [], generator(self.seed, _ORDER, 0)
        for latent, active, inactive in self.examples(text, explanations, self.n_excerpts // 2):
            shown = [(one.plain, one.has_latent) for one in (*active, *inactive)]
            found.append(question(latent, DETECTION, explanations[latent], shown, random))
        return found


@dataclass(frozen=True)
class FuzzingScore(LanguageModelScore):
    """Balanced accuracy of a language model that tells rightly marked excerpts from wrongly marked ones.

    All excerpts have the latent active. In half of them, the tokens on which it is active are marked; in the others, as
    many other tokens are. Unlike `DetectionScore`, it tests whether the explanation names the right tokens. See
    `LanguageModelScore` for the attributes.

    Source: Paulo et al., "Automatically interpreting millions of features in large language models", arXiv 2410.13928,
    2024.
    """

    name: ClassVar[str] = "fuzzing"

    def questions(self, text: TokenLatents, explanations: tuple[str | None, ...]) -> list[Question]:
        """Returns the questions about each latent with an explanation."""
        found, random = [], generator(self.seed, _ORDER, 1)
        half = self.n_excerpts // 2
        for latent, active, _ in self.examples(text, explanations, 2 * half):
            # An excerpt whose tokens are all active can't be marked wrongly.
            false = [marks for one in active[half:] if (marks := one.mismarked(random)) is not None]
            if false:
                shown = [(one.marked, True) for one in active[:half]] + [(marks, False) for marks in false]
                found.append(question(latent, FUZZING, explanations[latent], shown, random))
        return found
