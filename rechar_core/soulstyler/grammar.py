"""Splits an instruction into a style and the object to restyle, by rules: no model, no network.

"Turn the red car into a watercolour" -> style "watercolour", object "red car", head noun "car". Soulstyler uses an LLM
for this; its prompt is unpublished. Every value is a span of the instruction. Each language is one table of
forms, tried in order; the first that matches decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from . import chinese, english, japanese
from .language import Language
from .spans import Text

_TABLES: Mapping[str, Language] = {"en": english.TABLE, "zh": chinese.TABLE, "ja": japanese.TABLE}
_LONGEST = 300  # characters of an instruction that are read; the patterns' time grows with the square


@dataclass(frozen=True)
class Pair:
    """A style and its object. head: the object's noun alone; part: the part of the object that is meant, or ""."""

    style: str
    object: str
    head: str
    part: str = ""

    @property
    def target(self) -> str:
        """What to look for in the picture: the object, and the part of it if one is named."""
        return f"{self.part} of {self.object}" if self.part else self.object


@dataclass(frozen=True)
class Request:
    """The parsed instruction. style: of the first pair, or a style without an object. by: "rules" or the LLM."""

    style: str
    pairs: tuple[Pair, ...]
    by: str = "rules"

    @property
    def found(self) -> bool:
        """Whether an object is named."""
        return bool(self.pairs)

    @property
    def first(self) -> Pair:
        """The first pair, or one of empty texts."""
        return self.pairs[0] if self.pairs else Pair(self.style, "", "")

    def pairs_json(self) -> str:
        """The pairs as a JSON list of {style, object, head, part}."""
        return json.dumps([asdict(pair) for pair in self.pairs], ensure_ascii=False)


def parse(instruction: str) -> Request:
    """Parses an instruction. If nothing matches, the request is empty; there is no error.

    Its language is recognised by its script. Only the first 300 characters are read.
    """
    table = _TABLES[language_of(instruction)]
    text = (
        Text.of(instruction)[:_LONGEST]
        .stripped()
        .without(table.filler)
        .without(table.unchanged)
        .without(table.filler)
    )
    answers = _Reader(table).read(text)
    pairs = tuple(pair for pair in answers if pair.object)
    return Request(next((pair.style for pair in pairs or answers), ""), pairs)


def language_of(text: str) -> str:
    """The language that a text is written in: "ja" if there is kana, "zh" if there are Han characters, else "en".

    Names in another script change nothing: where Latin words outnumber the characters of the others it is "en".
    """
    characters = re.findall("[\u3040-\u30ff\u3400-\u9fff]", text)
    if len(re.findall("[A-Za-z]+", text)) >= len(characters):
        return "en"
    return "ja" if re.search("[\u3040-\u30ff]", text) else "zh"


class _Reader:
    """Applies one language's table, with a cache of the texts it has parsed."""

    def __init__(self, table: Language):
        self.table = table
        self._cache: dict[str, tuple[Pair, ...]] = {}

    def read(self, text: Text) -> tuple[Pair, ...]:
        """The pairs of a whole instruction; in a pair without an object, the style is for the whole picture."""
        return self._joined(text) or self._one(text, weak=True)

    def _half(self, text: Text) -> tuple[Pair, ...]:
        if text.text not in self._cache:
            self._cache[text.text] = self._joined(text) or self._one(text, weak=False)
        return self._cache[text.text]

    def _joined(self, text: Text) -> tuple[Pair, ...]:
        """The pairs of two or more joined requests, if both sides of a joint are requests themselves."""
        for left, right in text.split(self.table.joints):
            first = self._one(left, weak=False)
            verb = self.table.verb.match(left.text)
            again = left[: verb.end()] + right if verb else right
            if first and (rest := self._half(right) or self._half(again)):
                return (*first, *rest)
        return ()

    def _one(self, text: Text, weak: bool) -> tuple[Pair, ...]:
        table = self.table
        for form in table.forms:
            match = form.fullmatch(text.text) if weak or form not in table.weak else None
            if match is None:
                continue
            groups = {
                name: text[slice(*match.span(name))] for name, value in match.groupdict().items() if value
            }
            style = _trimmed(groups["s"], table.style_edges)
            thing = _trimmed(groups["o"], table.object_edges)
            if style.text and thing.text:
                part = _trimmed(groups["p"], table.object_edges).span() if "p" in groups else ""
                return (_pair(style, thing, part, table),)
        return ()


def _pair(style: Text, thing: Text, part: str, table: Language) -> Pair:
    if table.whole.fullmatch(thing.text):
        return Pair(style.span(), "", "")
    head = table.head(thing.text)
    at = thing.text.rfind(head)
    return Pair(style.span(), thing.span(), thing[at : at + len(head)].span(), part)


def _trimmed(text: Text, edges: tuple[re.Pattern[str], ...]) -> Text:
    """Removes `edges` from both ends of the text as often as they match, unless nothing would be left."""
    while True:
        text = text.stripped()
        start, end = edges[0].match(text.text), edges[1].search(text.text)
        if start and 0 < start.end() < len(text.text):
            text = text[start.end() :]
        elif end and 0 < end.start() < len(text.text):
            text = text[: end.start()]
        else:
            return text
