"""The 79 sentence templates of CLIPstyler for a style, after CLIP's own list for ImageNet (Radford et al., 2021).

A style's text feature is the mean over all of them.
"""

from __future__ import annotations

# Each is used with "a" and with "the" instead of @.
_BOTH = """a bad photo of @ {}|a sculpture of @ {}|a photo of @ hard to see {}|a low resolution photo of @ {}
a rendering of @ {}|graffiti of @ {}|a cropped photo of @ {}|a tattoo of @ {}|@ embroidered {}|a bright photo of @ {}
a photo of @ clean {}|a photo of @ dirty {}|a dark photo of @ {}|a drawing of @ {}|@ plastic {}|a photo of @ cool {}
a close-up photo of @ {}|a black and white photo of @ {}|a painting of @ {}|a pixelated photo of @ {}
a jpeg corrupted photo of @ {}|a blurry photo of @ {}|a photo of @ {}|a good photo of @ {}|@ {} in a video game
a doodle of @ {}|@ origami {}|a sketch of @ {}|@ toy {}|a rendition of @ {}|a photo of @ large {}|a photo of @ nice {}
a photo of @ weird {}|@ cartoon {}|art of @ {}|@ plushie {}|a photo of @ small {}|itap of @ {}"""
_ONCE = ("a photo of my {}.", "a photo of one {}.", "itap of my {}.")

TEMPLATES: tuple[str, ...] = (
    *(
        f"{line.replace('@', article)}."
        for line in _BOTH.replace("\n", "|").split("|")
        for article in ("a", "the")
    ),
    *_ONCE,
)
SOURCE = "a Photo"  # the text for the unstyled picture


def sentences(text: str) -> list[str]:
    """`text` in every template."""
    return [template.format(text) for template in TEMPLATES]
