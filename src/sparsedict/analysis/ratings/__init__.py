"""Ratings of latents by people: mean grades, rank correlations and the agreement of raters, with intervals.

A rater reads the strongest examples of a latent and grades from 0 to 4 how well one rule explains them. `read` reads
the files of raters, `table` returns the mean grades, `rank_correlation` compares grades with maxima or scores, and
`agreement` compares two raters. All intervals are bootstrap intervals over latents.

Source: table 1 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
"""

from sparsedict.analysis._bootstrap import Estimate
from sparsedict.analysis.ratings._agreement import Agreement, agreement
from sparsedict.analysis.ratings._files import SKIP, parse, read, write, write_blind
from sparsedict.analysis.ratings._key import KeyItem, RatingKey
from sparsedict.analysis.ratings._rank import rank_correlation
from sparsedict.analysis.ratings._rating import GRADES, Rating, Ratings
from sparsedict.analysis.ratings._table import RatingTable, TableRow, table

__all__ = [
    "GRADES",
    "SKIP",
    "Agreement",
    "Estimate",
    "KeyItem",
    "Rating",
    "RatingKey",
    "RatingTable",
    "Ratings",
    "TableRow",
    "agreement",
    "parse",
    "rank_correlation",
    "read",
    "table",
    "write",
    "write_blind",
]
