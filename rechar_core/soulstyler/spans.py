"""Text that keeps the source position of each character, so that every value is a span of the source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Each character is replaced by one character, so that positions do not change.
_PLAIN = {
    "'": "‘’‛`´",
    '"': "“”„«»「」『』",
    " ": "\u00a0\u3000\t\n\r",
    "-": "‐‑–",
    ",": "，、",
    ";": "；",
    ".": "。",
    "!": "！",
    "?": "？",
    ":": "：",
}
_TO_PLAIN = str.maketrans({other: plain for plain, others in _PLAIN.items() for other in others})


@dataclass(frozen=True)
class Text:
    """Part of `source`, perhaps with holes. at: the position in `source` of each character of `text`."""

    source: str
    text: str
    at: tuple[int, ...]

    @classmethod
    def of(cls, source: str) -> Text:
        """All of `source`, with normalised quotes, dashes and punctuation."""
        return cls(source, source.translate(_TO_PLAIN), tuple(range(len(source))))

    def __getitem__(self, span: slice) -> Text:
        return Text(self.source, self.text[span], self.at[span])

    def __add__(self, other: Text) -> Text:
        return Text(self.source, self.text + other.text, self.at + other.at)

    def without(self, pattern: re.Pattern[str]) -> Text:
        """The text without all matches, and without space at its ends."""
        rest, end = self[0:0], 0
        for match in pattern.finditer(self.text):
            rest, end = rest + self[end : match.start()], match.end()
        return (rest + self[end:]).stripped()

    def stripped(self, edges: str = r"[\s\"',;:.!?]*") -> Text:
        """The text without what matches `edges` at its beginning and its end."""
        start = re.match(edges, self.text)
        end = re.search(f"(?:{edges})$", self.text)
        first, last = start.end() if start else 0, end.start() if end else len(self.text)
        return self[first:last] if first < last else self[0:0]

    def split(self, pattern: re.Pattern[str]) -> Iterator[tuple[Text, Text]]:
        """Before and after each match, for every match."""
        for match in pattern.finditer(self.text):
            yield self[: match.start()], self[match.end() :]

    def span(self) -> str:
        """The source text from the first to the last character."""
        return self.source[self.at[0] : self.at[-1] + 1] if self.at else ""
