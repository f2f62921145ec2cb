from __future__ import annotations

from html.parser import HTMLParser

import torch

from sparsedict.analysis import Example, TopExamples


def example(tokens: list[int], activations: list[float], peak: int | None = None) -> Example:
    values = torch.tensor(activations)
    return Example(torch.tensor(tokens), values, int(values.argmax()) if peak is None else peak, sequence=3, position=9)


def top(latent: int, *examples: Example) -> TopExamples:
    return TopExamples(latent, examples, 1000)


class Parsed(HTMLParser):
    """Tags, attributes and text of a page; every tag must be closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
