"""The English grammar table: forms in the order of matching, and what is trimmed."""

from __future__ import annotations

from .language import Language, pattern, patterns

_DETERMINERS = (
    r"(?:an?|the|some|my|your|his|her|its|our|their|this|that|these|those|all(?:\s+of)?(?:\s+the)?)"
)
_VERB = (
    r"(?:make|turn|change|convert|transform|render|(?:re)?paint|(?:re)?draw|sketch|restyle|styli[sz]e|style|"
    r"recolou?r|reimagine|redo|remake|rework|recreate|redesign|reinterpret|show|depict|present|portray|let|have|"
    r"get|fill|cover|coat|wrap|dress|decorate|texture|illustrate|rewrite|morph|set|switch|replace|shade|want|put)"
)
_STYLE = (
    r"(?:style|look|texture|feel|appearance|effect|finish|vibe|aesthetic|treatment|manner|pattern|filter)s?"
)
_STROKES = r"(?:(?:brush\s*)?strokes?|brushwork|colou?rs?|lines?|patterns?|shading|tones?|palette|textures?|hatching)"
_BY_HAND = r"(?:painted|drawn|sketched|illustrated|designed|created|made|done|rendered)"
_PREPOSITIONS = (
    "of in on with at by behind near under over from to beside between inside outside above below against next along "
    "around through beneath without for into onto"
)
# an object does not end in a preposition: "give the cat on | the sofa a ..." is cut too early
_O = r"(?P<o>\S.*?)" + "".join(rf"(?<!\b{word})" for word in (*_PREPOSITIONS.split(), "like", "as"))
_LAST_O = _O.replace("*?", "*")
_S = r"(?P<s>\S.*)"
# names of styles, by which "make the mug art deco" is cut where no function word helps
_STYLES = (
    r"art\s+(?:deco|nouveau|brut)|pop\s+art|op\s+art|pixel\s+art|line\s+art|low[\s-]poly|tie[\s-]dye\w*|\w+punk|"
    r"\w{3,}(?:ism|ist|istic|esque|core|wave)|gothic|baroque|rococo|bauhaus|anime|manga|cartoon\w*|comic|neon|"
    r"ukiyo-e|sumi-e|watercolou?r|minimal|vintage|retro|psychedelic|abstract|monochrome|sepia|graffiti|mosaic|origami|"
    r"stained\s+glass|black\s+and\s+white|van\s+gogh|oil\s+paint\w*|pastel|chrome|gold\w*|silver|marble|wooden|metallic"
)

_APPLY_S_TO_O = (
    r"(?:apply|add|transfer|use|put|bring|copy|project|paint|lay|try)\s+(?P<s>(?!.*\s(?:into|like)\s).*?)\s+"
    r"(?:on\s*to|to)\s+(?P<o>.+)"
)
_MAKE_THE_O_S = rf"{_VERB}\s+{_DETERMINERS}\s+{_LAST_O}\s+(?P<s>\S+?)(?:[\s-]{_STYLE})?"
_O_COMMA_S = r"(?P<o>[^,;:]+)[,;:]\s*(?P<s>[^,;:]+)"
_FORMS = (
    # Change the style of O to S; swap its style for S
    rf"{_VERB}\s+(?:the\s+)?(?:{_STYLE}|material|surface|colou?rs?)\s+of\s+{_O}\s+(?:to|into|with|by|for|as)\s+{_S}",
    # Apply S to O
    _APPLY_S_TO_O,
    (
        r"(?:apply|add|transfer|use|put|bring|copy|project|lay|try)\s+(?P<s>.+?)\s+"
        r"(?:on\s*to|to|on|over|for|upon|across)\s+(?P<o>.+)"
    ),
    # Give O a S look
    rf"(?:give|lend|grant)\s+{_O}\s+(?:an?|the|some)\s+{_S}",
    rf"(?:give|lend|grant)\s+{_O}\s+(?P<s>\S+(?:\s+\S+)?\s+{_STYLE})",
    # O in the style of S
    (
        rf"(?:{_VERB}\s+)?{_O}\s+(?:to\s+be\s+|should\s+be\s+|be\s+)?(?:{_BY_HAND}\s+)?(?:in|into|after|with|to|using)\s+"
        rf"(?:the|a)\s+(?:\w+\s+)?{_STYLE}\s+of\s+{_S}"
    ),
    # O to look like S, O become S, O should look as if S
    (
        rf"(?:{_VERB}\s+)?{_O}\s+(?:(?:to|should|must|has\s+to|needs\s+to|will)\s+)?"
        rf"(?:(?:look|appear|seem|feel)s?(?:\s+(?:like|as\s+if|as\s+though|as))?|resembles?|becomes?|turns?\s+into)\s+{_S}"
    ),
    # O as if it were S
    rf"(?:{_VERB}\s+)?{_O}\s+(?:as\s+if|as\s+though|like)\s+it\s+(?:was|were|is|had\s+been)\s+{_S}",
    # Turn O into S
    rf"{_VERB}\s+{_O}\s+into\s+{_S}",
    # Change O from X to S
    rf"{_VERB}\s+{_O}\s+from\s+.+\s+(?:in)?to\s+{_S}",
    # O in S-style strokes
    rf"(?:{_VERB}\s+)?{_O}\s+(?:with|in|using)\s+(?P<s>(?:(?!\s(?:with|in)\s).)+?)[\s-]styled?\s+(?:\w+\s+)?{_STROKES}",
    # O with S-style PART
    rf"(?:{_VERB}\s+)?{_LAST_O}\s+with\s+(?P<s>(?:(?!\swith\s).)+?)[\s-]styled?\s+(?P<p>\w+(?:\s+\w+)?)",
    # O in S style
    rf"(?:{_VERB}\s+)?{_LAST_O}\s+(?:should\s+be\s+|be\s+)?(?:in|with|using)\s+(?P<s>.+?)[\s-]{_STYLE}",
    # Could O be rendered in S
    (
        rf"(?:could|can|should|may|might|would|will)?\s*{_O}\s+(?:(?:could|can|should|must|to)\s+)?be\s+(?:turned\s+|changed\s+|"
        rf"shown\s+|re\w+\s+|\w+ed\s+|{_BY_HAND}\s+)?(?:into|in|as|like|with|to|of|using)\s+{_S}"
    ),
    # Render O as S; Fill O with S; Paint O in S
    rf"{_VERB}\s+{_O}\s+(?:as|like|using)\s+{_S}",
    rf"(?:fill|cover|coat|wrap|dress|decorate|texture|shade|replace|{_VERB})\s+{_LAST_O}\s+with\s+{_S}",
    rf"{_VERB}\s+{_LAST_O}\s+to\s+{_S}",
    # Make O a S
    rf"(?:make|turn|have|render|paint|draw)\s+{_O}\s+an?\s+{_S}",
    # Make O steampunk
    rf"{_VERB}\s+{_DETERMINERS}\s+{_O}\s+(?P<s>(?:{_STYLES})\b.*)",
    rf"(?:fill|cover|coat|wrap|dress|(?:re)?paint|(?:re)?draw|render|sketch|show|depict|{_VERB})\s+{_LAST_O}\s+in\s+{_S}",
    _MAKE_THE_O_S,
    # Paint it S
    rf"{_VERB}\s+(?P<o>it|this|that|them|these|those|everything)\s+{_S}",
    # S style for O; S-style O; O made of S; O painted by S; O, S
    rf"(?P<s>.+?)[\s-]{_STYLE}\s+(?:for|on|to|onto|over)\s+(?P<o>.+)",
    rf"{_O}\s+(?:made|built|carved|cut|woven|formed|sculpted|folded)\s+(?:out\s+)?(?:of|from|with)\s+{_S}",
    rf"{_O},?\s+{_BY_HAND}\s+by\s+{_S}",
    rf"{_O}\s+(?:as|like)\s+{_S}",
    r"(?P<s>[^,]+?)[\s-](?:styled?)\s+(?P<o>[^,]+)",
    _O_COMMA_S,
)

_HOLDING = (
    "wearing holding carrying riding eating reading playing made dressed covered parked seated who that which"
)
_BOUNDARY = pattern(
    r"\s(?:"
    + "|".join((*_PREPOSITIONS.split(), *_HOLDING.split(), "and", "or", "as", "while", "behind"))
    + r"|\w+ing(?=\s+(?:in|on|at|the|an?|by|with|over|under|through|near|along)\b))\b|\s\w+ing$"
)
_THINGS_IN_ING = pattern(
    r"\s(?:build|paint|wed|ceil|cloth|r|w|str|k|earr|rail|sibl|swing|sw|th|be|draw|duckl|dumpl)ing(?=\s|$)"
)


def head(noun_phrase: str) -> str:
    """The noun of an object: the last word before any description that follows it."""
    masked = _THINGS_IN_ING.sub(lambda match: " " + "x" * (len(match[0]) - 1), noun_phrase)
    boundary = _BOUNDARY.search(masked)
    front = noun_phrase[: boundary.start()] if boundary else noun_phrase
    return front.split()[-1].strip(",") if front.split() else noun_phrase


TABLE = Language(
    unchanged=pattern(
        r"(?:^|[,;.]|\b(?:and|but|while|yet))\s*(?:please\s+|then\s+)*(?:"
        r"(?:keep|leave|preserve|don't|do\s+not|never|not)(?:ing)?\b|(?:everything|all)\s+else\b|"
        r"(?:the\s+)?(?:rest|background|others?)\b[^,;.]*\b(?:stays?|remains?|unchanged|as\s+is|alone)\b)[^,;.]*[,;.]?"
        r"|,?\s*\b(?:without|while\s+keeping|keeping|leaving|but\s+not)\s+"
        r"(?:chang|touch|alter|affect|modify|edit|the|every|all|its?\b)[^,;.]*"
    ),
    filler=pattern(
        r"\b(?:please|kindly|thank\s+you|thanks)\b[,.!]?|"
        r"^(?:(?:can|could|would|will)\s+you\b|(?:i\s+(?:want|wish|need|would\s+like)|i'd\s+(?:like|love)|"
        r"we\s+(?:want|need)|let's|help\s+me)\s*(?:you\s+)?(?:to\s+(?=\w))?|hey\b|hi\b|now\b|then\b|also\b)[\s,]*|"
        r"\b(?:only|just|simply)\b\s*|\bfor\s+me\b|"
        r",?\s*\b(?:in|of|from|on)\s+(?:the|this|my|that)\s+(?:whole\s+)?(?:picture|image|photo(?:graph)?|scene|frame)\b[,\s]*"
    ),
    joints=pattern(r"\s*(?:,\s*and\s+then|,\s*and|,\s*then|\band\s+then|\band|,|;|\.)\s+"),
    verb=pattern(rf"(?:apply|add|give|transfer|use|put|{_VERB})\s+"),
    forms=patterns(*_FORMS),
    weak=patterns(_APPLY_S_TO_O, _MAKE_THE_O_S, _O_COMMA_S),
    style_edges=patterns(
        rf"(?:{_DETERMINERS}\s+)?(?:{_STYLE}|form|shape|colou?rs)\s+of\s+|{_DETERMINERS}\s+|"
        rf"(?:it\s+)?(?:was|were|is|had\s+been)\s+|it\s+|(?:being\s+)?{_BY_HAND}\s+(?:by|in|with|as|of|from)\s+|"
        r"it's\s+|(?:something|one)\s+(?:by|in|from)\s+",
        rf"[\s-](?:{_STYLE}|styled)$|\s+(?:instead|now|version|by\s+hand)$",
    ),
    object_edges=patterns(
        rf"{_DETERMINERS}\s+",
        r"(?:'s)?\s+(?:style|look|surface|appearance|texture)$|"
        r"\s+(?:should|must|has\s+to|needs\s+to|to|will|can|could|is|are)(?:\s+be)?(?:\s+\w+ed)?$|\s+be$",
    ),
    whole=pattern(
        r"(?:it|this|that|them|these|those|everything|all|(?:the\s+)?(?:whole|entire)(?:\s+\w+)?|"
        r"(?:the\s+)?(?:picture|image|photo|scene))"
    ),
    head=head,
)
