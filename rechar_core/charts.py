"""Charts as pictures: the loss during training, the norms of a LoRA's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

INK, FAINT, COLOURS = "#222222", "#cccccc", ("#2a6fbb", "#c2571a")


def loss_chart(losses: Sequence[float], total: int, size: tuple[int, int] = (256, 256)) -> Image:
    """The losses so far (thin) and their running mean (thick) over `total` steps."""
    from PIL import Image, ImageDraw

    width, height = size
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    means, mean = [], losses[0] if losses else 0.0
    for loss in losses:
        mean += (loss - mean) * 0.05
        means.append(mean)
    top = max(losses, default=1.0) * 1.05 or 1.0

    def line(values: Sequence[float], colour: str, thickness: int) -> None:
        points = [
            (8 + (width - 16) * i / max(1, total - 1), height - 24 - (height - 32) * v / top)
            for i, v in enumerate(values)
        ]
        draw.line(points, colour, thickness)

    line(losses, FAINT, 1)
    line(means, COLOURS[0], 2)
    draw.text((8, height - 18), f"step {len(losses)}/{total}   loss {mean:.4f}", fill=INK)
    return page


def energy_chart(layers: Mapping[str, Mapping[str, float]], width: int = 640) -> Image:
    """A bar chart with one bar per layer, for {block name: {layer: Frobenius norm}}."""
    from PIL import Image, ImageDraw

    bar, head, gutter = 12, 28, 230
    count = sum(len(bars) for bars in layers.values())
    page = Image.new("RGB", (width, head * len(layers) + bar * count + 12), "white")
    draw = ImageDraw.Draw(page)
    most = max((v for bars in layers.values() for v in bars.values()), default=1.0) or 1.0
    y = 6
    for colour, (block, bars) in zip(COLOURS, layers.items(), strict=False):
        draw.text((8, y + 4), f"{block}: norm of each layer's weight change", fill=INK)
        y += head
        for layer, value in bars.items():
            draw.text((8, y - 1), layer, fill=INK)
            draw.rectangle(
                (gutter, y + 1, gutter + (width - gutter - 60) * value / most, y + bar - 2), fill=colour
            )
            draw.text((gutter + (width - gutter - 60) * value / most + 4, y - 1), f"{value:.3g}", fill=INK)
            y += bar
    return page


def beside(*pictures: Image) -> Image:
    """Pictures side by side at the height of the tallest, on white."""
    from PIL import Image

    height = max(p.height for p in pictures)
    fitted = [p.resize((p.width * height // p.height, height)) for p in pictures]
    page = Image.new("RGB", (sum(p.width for p in fitted), height), "white")
    x = 0
    for picture in fitted:
        page.paste(picture, (x, 0))
        x += picture.width
    return page
