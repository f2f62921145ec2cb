"""HTML pages of latents, attribution graphs and results. They open from disk, without network."""

from sparsedict.pages import exports, rating
from sparsedict.pages._facts import DictionaryFacts, gather
from sparsedict.pages._latent_view import LatentView, latent
from sparsedict.pages._latents import write, write_pages
from sparsedict.pages._overview import Section, write_overview
from sparsedict.pages._saved_records import read_records
from sparsedict.pages._strings import TokenStrings, token_strings
from sparsedict.pages.graphs import LatentPages, write_graph

__all__ = [
    "DictionaryFacts",
    "LatentPages",
    "LatentView",
    "Section",
    "TokenStrings",
    "exports",
    "gather",
    "latent",
    "rating",
    "read_records",
    "token_strings",
    "write",
    "write_graph",
    "write_overview",
    "write_pages",
]
