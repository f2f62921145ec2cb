"""Self-contained HTML pages of results, without external files, for light and dark mode."""

from sparsedict.pages import exports, rating
from sparsedict.pages._cards import LatentCard, latent_cards
from sparsedict.pages._examples import write_examples
from sparsedict.pages._latent_view import LatentView, latent
from sparsedict.pages._overview import Section, write_overview
from sparsedict.pages._strings import TokenStrings, token_strings

__all__ = [
    "LatentCard",
    "LatentView",
    "Section",
    "TokenStrings",
    "exports",
    "latent",
    "latent_cards",
    "rating",
    "token_strings",
    "write_examples",
    "write_overview",
]
