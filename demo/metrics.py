"""What the evaluation measures, on pictures (h, w, 3) in 0..1 at 128 px. No learned network takes part."""

import numpy as np
from scipy import ndimage

from .catalog import ELEMENTS, NAMED_GLYPHS, PIXELS, named_styles
from .elements import ANCHORS, element_mask
from .glyphs import canonical_mask
from .styles import named_style, paint

Array = np.ndarray
_MATRIX = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = np.array([0.9505, 1.0, 1.089])


def halve(picture: Array) -> Array:
    """A 256 px picture at the 128 px where everything is measured."""
    side = len(picture) // 2
    return picture.reshape(side, 2, side, 2, 3).mean((1, 3))


def lab(picture: Array) -> Array:
    """CIE L*a*b* (D65) of an sRGB picture."""
    linear = np.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _MATRIX.T / _WHITE
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def difference(picture: Array) -> Array:
    """Lab distance of each pixel from the ground, which is the median colour of a ring along the border."""
    values = lab(picture)
    ring = 8
    border = np.ones(picture.shape[:2], bool)
    border[ring:-ring, ring:-ring] = False
    return np.linalg.norm(values - np.median(values[border], 0), axis=-1)


def _otsu(values: Array) -> float:
    counts, edges = np.histogram(values, 128)
    middles, weights = (edges[1:] + edges[:-1]) / 2, counts / counts.sum()
    below = np.cumsum(weights)
    mean = np.cumsum(weights * middles)
    spread = (mean[-1] * below - mean) ** 2 / np.maximum(below * (1 - below), 1e-9)
    return float(middles[np.argmax(spread)])


def foreground(picture: Array) -> Array:
    """What stands out from the ground: Otsu's threshold on the smoothed Lab distance, at least 8."""
    distance = ndimage.gaussian_filter(difference(picture), 0.8)
    return distance > max(_otsu(distance), 8.0)


def iou(first: Array, second: Array) -> float:
    """Intersection over union of two boolean masks."""
    return float((first & second).sum() / max(1, (first | second).sum()))


def lab_histogram(picture: Array) -> Array:
    """8 x 10 x 10 bins over Lab, smoothed by half a bin, summing to 1."""
    bounds = ((0, 100), (-100, 100), (-100, 100))
    counts, _ = np.histogramdd(lab(picture).reshape(-1, 3), bins=(8, 10, 10), range=bounds)
    counts = ndimage.gaussian_filter(counts, 0.5)
    return counts / counts.sum()


def histogram_distance(first: Array, second: Array) -> float:
    """Hellinger distance of the Lab histograms: 0 equal, 1 disjoint."""
    overlap = np.sqrt(lab_histogram(first) * lab_histogram(second)).sum()
    return float(np.sqrt(max(0.0, 1 - overlap)))


def _filters() -> list[Array]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((24, 5, 5, 3)) / 8.7, rng.standard_normal((24, 3, 3, 24)) / 14.7]


_FILTERS = _filters()


def _convolve(image: Array, filters: Array) -> Array:
    size = filters.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), (0, 1))[::2, ::2]
    return np.maximum(np.einsum("hwcij,oijc->hwo", windows, filters, optimize=True), 0)


def gram(picture: Array) -> Array:
    """Gram matrices of two layers of fixed random filters (Ustyuzhaninov et al. 2017), as one vector."""
    features, parts = 2 * picture - 1, []
    for filters in _FILTERS:
        features = _convolve(features, filters)
        flat = features.reshape(-1, features.shape[-1])
        parts.append((flat.T @ flat / len(flat)).ravel())
    return np.concatenate([part / np.sqrt(len(part)) for part in parts])


def gram_distance(picture: Array, target: Array) -> float:
    """Relative Frobenius distance of the Gram matrices."""
    wanted = gram(target)
    return float(np.linalg.norm(gram(picture) - wanted) / np.linalg.norm(wanted))


class StyleJudge:
    """Which named style is it: nearest reference drawing by histogram and Gram distance."""

    def __init__(self, drawings: int = 6) -> None:
        rng = np.random.default_rng(5)
        self.names = named_styles()
        blank = np.zeros((PIXELS, PIXELS), np.float32)
        self.references: list[tuple[int, Array, Array]] = []
        for index, (family, palette) in enumerate(self.names):
            for _ in range(drawings):
                glyph = NAMED_GLYPHS[rng.integers(len(NAMED_GLYPHS))]
                mask = canonical_mask(glyph, "latin" if glyph.isascii() else "cjk")
                picture = paint(mask, blank, named_style(family, palette), rng)
                self.references.append((index, np.sqrt(lab_histogram(picture)), gram(picture)))

    def __call__(self, picture: Array) -> int:
        histogram, features = np.sqrt(lab_histogram(picture)), gram(picture)
        distances = []
        for index, other, wanted in self.references:
            colour = np.sqrt(max(0.0, 1 - (histogram * other).sum()))
            texture = np.linalg.norm(features - wanted) / np.linalg.norm(wanted)
            distances.append((colour + 0.5 * min(texture, 2.0), index))
        return min(distances)[1]


class GlyphJudge:
    """Which named glyph is it: largest IoU of the foreground with the canonical drawings, shifted up to 4 px."""

    def __init__(self) -> None:
        scripts = ["latin" if glyph.isascii() else "cjk" for glyph in NAMED_GLYPHS]
        self.masks = np.stack([canonical_mask(g, s) > 0.5 for g, s in zip(NAMED_GLYPHS, scripts)])

    def __call__(self, picture: Array) -> str:
        found, best = foreground(picture), np.zeros(len(self.masks))
        for down in (-4, 0, 4):
            for right in (-4, 0, 4):
                moved = np.roll(found, (down, right), (0, 1))
                both, either = (self.masks & moved).sum((1, 2)), (self.masks | moved).sum((1, 2))
                best = np.maximum(best, both / either)
        return NAMED_GLYPHS[int(best.argmax())]


class ElementJudge:
    """Which element is it: normalised correlation of the foreground with drawn elements round each anchor."""

    def __init__(self, drawings: int = 8) -> None:
        rng = np.random.default_rng(6)
        self.templates = {
            name: np.stack([element_mask((name,), rng) for _ in range(drawings)]) for name in ELEMENTS
        }

    def scores(self, picture: Array) -> dict[str, float]:
        """Mean over the four corners of the best correlation with any drawing, moved by up to 4 px."""
        signal = difference(picture)
        return {name: float(np.mean([self._corner(signal, name, a) for a in range(4)])) for name in ELEMENTS}

    def _corner(self, signal: Array, name: str, anchor: int) -> float:
        x, y = (round(place * PIXELS) for place in ANCHORS[anchor])
        half, best = 15, -1.0
        for down in (-4, -2, 0, 2, 4):
            for right in (-4, -2, 0, 2, 4):
                rows = slice(max(0, y - half + down), min(PIXELS, y + half + down))
                columns = slice(max(0, x - half + right), min(PIXELS, x + half + right))
                window = signal[rows, columns]
                there = (
                    slice(rows.start - down, rows.stop - down),
                    slice(columns.start - right, columns.stop - right),
                )
                template = self.templates[name][:, there[0], there[1]]
                best = max(best, _correlation(window, template))
        return best


def _correlation(window: Array, templates: Array) -> float:
    centred = window - window.mean()
    flat = templates.reshape(len(templates), -1)
    flat = flat - flat.mean(1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1) * np.linalg.norm(centred) + 1e-3
    return float((flat @ centred.ravel() / norms).max())


def spearman(x: list[float], y: list[float]) -> float:
    """Rank correlation."""
    first, second = (np.argsort(np.argsort(values)).astype(float) for values in (x, y))
    return float(np.corrcoef(first, second)[0, 1])
