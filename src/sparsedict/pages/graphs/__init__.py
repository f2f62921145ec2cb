"""The page of an attribution graph."""

from sparsedict.pages.graphs._examples import LatentPages
from sparsedict.pages.graphs._page import check_graph_folder, write_graph

__all__ = ["LatentPages", "check_graph_folder", "write_graph"]
