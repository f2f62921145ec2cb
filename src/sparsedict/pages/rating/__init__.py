"""Blind rating: a page that shows latents of several dictionaries, mixed and unnamed, and records grades from 0 to 4.

`rating_set` selects the latents. `RatingServer` serves the page on the loopback interface and writes each answer to a
file at once. `write_page` writes one self-contained page that downloads its answers. `sparsedict.analysis.ratings`
evaluates the files.
"""

from sparsedict.pages.rating._answers import AnswerFile, check_rater
from sparsedict.pages.rating._page import write_page
from sparsedict.pages.rating._rubric import RUBRIC, RubricGrade
from sparsedict.pages.rating._server import RatingServer
from sparsedict.pages.rating._set import RatingItem, RatingSet, kinds_of, rating_set, read_settings

__all__ = [
    "RUBRIC",
    "AnswerFile",
    "RatingItem",
    "RatingServer",
    "RatingSet",
    "RubricGrade",
    "check_rater",
    "kinds_of",
    "rating_set",
    "read_settings",
    "write_page",
]
