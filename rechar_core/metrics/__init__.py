"""How well a picture keeps a glyph and a style, in numbers that a blank picture cannot win.

SSIM alone cannot tell: between edge maps a blank picture scores above the published 0.8690. It is reported beside
measures of the shape, and all of them beside controls (score.py).
"""
