"""`PythonNode`, the type of the syntax tree's node that each token of Python source belongs to."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from sparsedict import checks
from sparsedict.analysis.scores._labels import Labels
from sparsedict.analysis.scores._token_latents import TokenLatents

_LINE_END = re.compile(rb"\r\n|\r|\n")
MAX_CUTS = 50


@dataclass(frozen=True)
class PythonNode:
    """The innermost node of the syntax tree that holds a token's first character, such as ``FunctionDef`` or ``arg``.

    Sequences are joined in their order and split into modules at separator tokens. The last module may be cut: lines at
    its end are dropped until the rest can be parsed. Modules that can't be parsed, and white space, have no label.
    Comments, which the syntax tree doesn't have, are ``Comment``.

    Attributes:
        separator: Token between modules, such as BOS. It has no label. At the beginning of each sequence it separates
            nothing.
    """

    separator: int = 0

    def __post_init__(self) -> None:
        checks.set_at_least(self, "separator", 0)

    def __call__(self, text: TokenLatents, /) -> Labels | None:
        """Returns the labels, or None if the text has no strings."""
        if text.strings is None:
            return None
        flat = text.tokens.flatten()
        known: dict[str, int] = {}
        ids = torch.full_like(flat, -1)
        for places in self._modules(text):
            strings = text.strings(flat[places].tolist())
            for place, node in zip(places.tolist(), token_nodes(strings), strict=True):
                if node is not None:
                    ids[place] = known.setdefault(node, len(known))
        return Labels(ids.view_as(text.tokens), tuple(known).__getitem__, "the token is part of a Python {}")

    def _modules(self, text: TokenLatents) -> list[torch.Tensor]:
        """Returns the places of the tokens of each module."""
        separates = text.tokens == self.separator
        is_token = (~separates & (text.tokens >= 0)).flatten()
        separates[:, 0] = False
        module = separates.flatten().cumsum(0)[is_token]
        places = is_token.nonzero().squeeze(1)
        return list(places.split(torch.unique_consecutive(module, return_counts=True)[1].tolist()))


def token_nodes(strings: list[str]) -> list[str | None]:
    """Returns the type of the innermost syntax node of each token of a module; None without one.

    Example:
        >>> token_nodes(["x", " =", " 1", "\\n", "# no", "te"])
        ['Name', 'Assign', 'Constant', None, 'Comment', 'Comment']
    """
    source = "".join(strings)
    end, tree = _parsed(source)
    if tree is None:
        return [None] * len(strings)
    data = source[:end].encode("utf-8", "replace")
    spans = np.full(len(data) + 1, "", dtype=object)
    starts = [0, *(match.end() for match in _LINE_END.finditer(data))]
    _fill(tree, starts, spans)
    for row, first, last in _comments(source[:end]):
        spans[starts[row] + first : starts[row] + last] = "Comment"
    nodes, place = [], 0
    for string in strings:
        first = place + len(string[: len(string) - len(string.lstrip())].encode("utf-8", "replace"))
        node = spans[first] if string.strip() and first < len(data) else ""
        nodes.append(node or None)
        place += len(string.encode("utf-8", "replace"))
    return nodes


def _parsed(source: str) -> tuple[int, ast.Module | None]:
    """Parses a module. If its end is cut, drops its last top-level statements until the rest can be parsed."""
    end = len(source)
    for _ in range(MAX_CUTS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return end, ast.parse(source[:end])
        except (SyntaxError, ValueError):
            tops = [match.start() + 1 for match in re.finditer(r"\n(?=[^\s#)\]}\"'])", source[:end])]
            if not tops:
                break
            end = tops[-1]
    return 0, None


def _fill(tree: ast.Module, starts: list[int], spans: np.ndarray) -> None:
    """Writes the type of each node over its span, parents before children."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.expr | ast.stmt | ast.arg | ast.keyword | ast.alias | ast.excepthandler):
            end_line, end_column = node.end_lineno, node.end_col_offset
            assert end_line is not None
            assert end_column is not None
            first = starts[node.lineno - 1] + node.col_offset
            spans[first : starts[end_line - 1] + end_column] = type(node).__name__


def _comments(source: str) -> list[tuple[int, int, int]]:
    """Returns row, first and last byte of each comment."""
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                before = len(token.line[: token.start[1]].encode("utf-8", "replace"))
                found.append((token.start[0] - 1, before, before + len(token.string.encode("utf-8", "replace"))))
    except (tokenize.TokenError, SyntaxError):
        pass
    return found
