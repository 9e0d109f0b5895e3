"""The text of a web page as a person would read it: no scripts, no styles, nothing hidden; a heading begins a section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

from steelyard.core.errors import DataError
from steelyard.data.documents.sections import ReadLimits, Section

_UNSEEN = frozenset({"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "canvas", "head", "select"})
_BLOCKS = frozenset(
    "address article aside blockquote body caption dd details dialog div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr html legend li main nav ol p pre section summary table tbody tfoot thead tr ul br".split()
)
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())


def headed(text: str, name: str, limits: ReadLimits) -> Iterator[Section]:
    """The sections of a page, each under its heading; what stands before the first is under the page's title.

    Raises:
        DataError: elements that are hidden lie deeper within one another than is allowed.
    """
    reader = _Reader(name, limits)
    reader.feed(text)
    reader.close()
    reader.end_section("")
    yield from reader.found


class _Reader(HTMLParser):
    def __init__(self, name: str, limits: ReadLimits):
        super().__init__(convert_charrefs=True)
        self.name, self.limits = name, limits
        self.found: list[Section] = []
        self.said: list[str] = []
        self.title = self.heading = ""
        self.hidden: list[str] = []  # elements open within one that is not seen, itself first
        self.titling = self.headings = self.kept = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.hidden:
            if tag == "title":
                self.titling = True
            elif tag not in _VOID:
                self.hidden.append(tag)
                if len(self.hidden) > self.limits.depth:
                    raise DataError(f"elements more than {self.limits.depth} deep", where=self.name, do="Give its text.")
            return
        if tag == "title":
            self.titling = True
        elif tag in _UNSEEN or (tag not in _VOID and ("hidden" in dict(attrs) or dict(attrs).get("aria-hidden") == "true")):
            self.hidden.append(tag)
        elif tag in _HEADINGS:
            self.end_section("")
            self.headings = True
        elif tag in ("td", "th"):
            self.said.append(" | " if self.said and not self.said[-1].endswith("\n") else "")
        elif tag == "li":
            self.said.append("\n- ")
        elif tag == "pre":
            self.said.append("\n")
        elif tag == "img" and (alternative := dict(attrs).get("alt")):
            self.said.append(f" {alternative} ")
        elif tag in _BLOCKS:
            self.said.append("\n" if tag in ("br", "tr", "dd", "dt") else "\n\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self.titling = False
        elif self.hidden:
            if tag in self.hidden:
                while self.hidden.pop() != tag:
                    pass
        elif tag in _HEADINGS and self.headings:
            self.headings = False
            heading = " ".join("".join(self.said).split())
            self.said.clear()
            self.heading = heading
        elif tag in _BLOCKS and tag not in ("br", "hr", "tr", "li"):
            self.said.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self.titling:
            self.title += data
        elif not self.hidden:
            self.said.append(re.sub(r"\s+", " ", data))

    def end_section(self, heading: str) -> None:
        """Keeps what was said since the last heading."""
        text = re.sub(r"[^\S\n]+", " ", "".join(self.said))
        text = re.sub(r" ?\n ?", "\n", text)
        text = re.sub(r"\n{3,}", "\n\n", text).strip()
        self.said.clear()
        if text or self.heading:
            self.found.append(Section(self.heading or " ".join(self.title.split()), text or self.heading))
        self.heading = heading
