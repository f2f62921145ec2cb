"""The rubric of the grades."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RubricGrade:
    """The meaning of a grade.

    Attributes:
        grade: The grade.
        name: Meaning in a few words.
        rule: Condition for the grade.
        examples: Short texts with the strongest token in square brackets.
        reason: Reason why these texts have this grade.
    """

    grade: int
    name: str
    rule: str
    examples: tuple[str, ...]
    reason: str


RUBRIC: tuple[RubricGrade, ...] = (
    RubricGrade(
        0,
        "no rule",
        "You can't name anything that the strongest tokens have in common.",
        ("they sat [by] the sea", "about 40 [%] of it", "[Anna] sold her car"),
        "A preposition, a sign and a name, in unrelated texts.",
    ),
    RubricGrade(
        1,
        "a weak hint",
        "A rule fits fewer than half of the examples, or is so broad that it would fit most texts.",
        ("she was [happy]", "a [tall] old tree", "[the] door", "walked [home]"),
        "Two adjectives, but the other tokens are of different kinds.",
    ),
    RubricGrade(
        2,
        "a partial rule",
        "A rule fits about half of the examples or more, but not most. Or the examples follow two unrelated rules.",
        ("on [Monday]", "every [Friday]", "return [0]", "count = [0]"),
        "Half of the tokens are days of the week. The other half are zeros.",
    ),
    RubricGrade(
        3,
        "a rule with exceptions",
        "One rule fits most examples. A few don't follow it.",
        ("a [red] car", "the [blue] sky", "two [green] apples", "an [empty] box"),
        "Colours before a noun, with one exception.",
    ),
    RubricGrade(
        4,
        "a clear rule",
        "One rule explains the strongest token of every example. You could predict where the latent is active in a "
        "new text.",
        ("at 7 [o]'clock", "by ten [o]'clock", "about 6 [o]'clock"),
        "Always the first letter of “o'clock” after a number.",
    ),
)
"""The grades from 0 to 4. The grades are those of the report, and the words are our own."""
