"""Pictures: reads files, scales them to the training resolution, writes PNG files and contact sheets.

All are IMAGE, ComfyUI's layout: (B, H, W, 3) float32 in 0..1.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# every kind that a single file may be, as far as the installed Pillow reads it
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif", ".jp2")
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of each colour
CLIP: Statistics = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEAST_CONTRAST = 0.02  # less is a picture of one colour
LATENT_SCALE = 8  # pixels a latent cell, SDXL's VAE
# labels name Chinese and Japanese characters, which Pillow's own font lacks
LABEL_FONT = Path(__file__).parent / "fonts" / "ReCharCJK.otf"
_MOST_PIXELS = 256_000_000  # larger than any real scan; a decompression bomb is refused before it is decoded


def list_pictures(path: Path) -> tuple[Path, ...]:
    """`path` itself, or the pictures directly inside it in name order.

    Raises ImageError if there is no such file or folder, or the folder contains no picture.
    """
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise ImageError(f"There is no picture or folder at {path}; check the path.")
    files = (file for file in path.iterdir() if file.is_file())
    pictures = tuple(sorted(file for file in files if file.suffix.lower() in PICTURE_SUFFIXES))
    if not pictures:
        raise ImageError(
            f"The folder {path} holds no picture ({', '.join(PICTURE_SUFFIXES)}); put one in it."
        )
    return pictures


def read(path: Path) -> Tensor:
    """The picture at `path` as IMAGE (1, H, W, 3), upright (EXIF), transparency over white.

    Raises ImageError if it is missing, damaged, not a picture, or has more than 256 million pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as raw:
            if raw.width * raw.height > _MOST_PIXELS:
                raise ImageError(
                    f"{path} is {raw.width} x {raw.height} pixels; scale it down to 16000 x 16000 or less."
                )
            return to_tensor(_over_white(ImageOps.exif_transpose(raw)))
    except FileNotFoundError:
        raise ImageError(f"There is no picture at {path}; check the path.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not a picture that can be read; use PNG, JPEG or WebP.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} is damaged or cut short ({error}); save it again as PNG.") from None


def _over_white(picture: Image) -> Image:
    from PIL import Image

    if picture.mode.startswith("I;16") or picture.mode == "I":
        picture = picture.point(lambda v: v / 257).convert("L")  # 16-bit scans: PIL's own convert only clips
    elif picture.mode == "F":  # 0..1; PIL's own convert takes them for 0..255
        picture = _of_floats(picture)
    rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _of_floats(picture: Image) -> Image:
    """A grey picture of 32-bit floats in 0..1, or in 0..255 if one of them is above 2, in 8 bits."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(picture), posinf=1.0)
    scale = 255 if values.max(initial=0) <= 2 else 1
    return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))


def rgb(image: Tensor) -> Tensor:
    """IMAGE (..., C) in 0..1 as (..., 3) fp32: grey in all three, transparency over white."""
    image = image.float()
    if image.shape[-1] == 4:
        image = 1 + image[..., 3:] * (image[..., :3] - 1)
    return image.expand(*image.shape[:-1], 3)


def grey(picture: Any) -> Any:
    """Luminance (..., H, W) of a tensor or an array (..., H, W, 3), Rec. 601."""
    return 0.299 * picture[..., 0] + 0.587 * picture[..., 1] + 0.114 * picture[..., 2]


def batch_of(mask: Tensor) -> Tensor:
    """MASK (B, H, W), or a single one (H, W), as (B, H, W)."""
    return mask.reshape(-1, *mask.shape[-2:])


def check_same_shape(mask: Tensor, size: tuple[int, int], what: str = "picture") -> None:
    """Raises ImageError if MASK (..., h, w) has another aspect ratio than a picture of size (height, width).

    Another resolution is fine. Up to 2 % are rounding, as of sides that were cut to whole latent cells.
    """
    height, width = mask.shape[-2:]
    expected = size[1] * height / size[0]  # of the mask's width
    rounded = max(
        1, size[1] / size[0], height / size[0]
    )  # one pixel more or less, of the mask or the picture
    if abs(width - expected) > max(rounded, 0.02 * expected):
        raise ImageError(
            f"The mask is {width} x {height} and the {what} {size[1]} x {size[0]}: their aspect ratios differ. Give a "
            f"mask that was made for this {what}."
        )


def normalised(pixels: Tensor, statistics: Statistics) -> Tensor:
    """(N, 3, H, W) in 0..1, less the mean and over the deviation of each colour. Differentiable."""
    mean, deviation = (pixels.new_tensor(values).view(3, 1, 1) for values in statistics)
    return (pixels - mean) / deviation


def fit(image: Tensor, resolution: int) -> Tensor:
    """Scale the shorter side to `resolution` pixels and keep the whole picture: no crop, no squash.

    image: (B, H, W, 3) in 0..1. Returns (B, H', W', 3) in 0..1, the longer side rounded to whole latent cells.
    Bilinear with antialiasing, as the reference trainer (train_dreambooth_b-lora_sdxl.py, DreamBoothDataset);
    cropping with true crop offsets is what its authors withdrew. Raises ImageError on an extreme aspect ratio.
    """
    import torch.nn.functional as F

    height, width = image.shape[1:3]
    short, long = sorted((height, width))
    if short == 0 or long > 8 * short:
        raise ImageError(
            f"The picture is {width} x {height}; its sides may differ at most by a factor of 8. Crop it."
        )
    longer = max(LATENT_SCALE, round(long * resolution / short / LATENT_SCALE) * LATENT_SCALE)
    size = (resolution, longer) if height <= width else (longer, resolution)
    if size != (height, width):
        image = F.interpolate(image.movedim(-1, 1), size, mode="bilinear", antialias=True).movedim(1, -1)
    return image.clamp(0, 1)


def check_drawn(image: Tensor, what: str, advice: str) -> None:
    """Raises ImageError if a picture (1, H, W, 3) in 0..1 is of one colour: a LoRA would learn nothing from it."""
    if float((image.amax(dim=(1, 2)) - image.amin(dim=(1, 2))).max()) < LEAST_CONTRAST:
        raise ImageError(f"{what} is of one colour; there is nothing to learn in it. {advice}")


def to_pil(image: Tensor) -> Image:
    """(H, W, 3) in 0..1 as an 8-bit RGB picture."""
    from PIL import Image

    bytes_ = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    return Image.fromarray(bytes_)


def to_tensor(picture: Image) -> Tensor:
    """A picture as IMAGE (1, H, W, 3) in 0..1."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32) / 255)[None]


def jpeg(image: Tensor, side: int = 256) -> bytes:
    """A small JPEG of (H, W, 3) in 0..1, for a file's metadata. side: its longer side in pixels."""
    buffer = io.BytesIO()
    picture = to_pil(image)
    picture.thumbnail((side, side))
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def png(picture: Image, about: str = "") -> bytes:
    """Writes a PNG file. about: JSON that is stored in it under "rechar"."""
    from PIL.PngImagePlugin import PngInfo

    info, buffer = PngInfo(), io.BytesIO()
    if about:
        info.add_itxt("rechar", about)
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def sheet(rows: Sequence[Sequence[tuple[str, Image]]], title: str, cell: int = 256) -> Image:
    """A labelled contact sheet: one line of (label, picture) cells per row, under a title."""
    from PIL import Image, ImageDraw, ImageFont

    gap, label, head = 12, 44, 44
    columns = max(len(row) for row in rows)
    size = (gap + columns * (cell + gap), head + len(rows) * (cell + label + gap) + gap)
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), ImageFont.truetype(str(LABEL_FONT), 14)
    draw.text((gap, 10), title, fill="black", font=ImageFont.truetype(str(LABEL_FONT), 20))
    for y, row in enumerate(rows):
        for x, (text, picture) in enumerate(row):
            left, top = gap + x * (cell + gap), head + y * (cell + label + gap)
            page.paste(picture.convert("RGB").resize((cell, cell), Image.Resampling.LANCZOS), (left, top))
            draw.multiline_text((left, top + cell + 4), text, fill="black", font=font, spacing=2)
    return page


def labelled_sheet(rows: Sequence[Sequence[tuple[str, Tensor]]], title: str) -> tuple[Tensor, Tensor]:
    """A labelled sheet as IMAGE (1, H, W, 3), and its pictures as a batch (N, H, W, 3), row by row.

    rows: of (label, picture (H, W, 3) in 0..1), all of one size; up to 512 pixels a side they are not scaled.
    """
    import torch

    pictures = torch.stack([picture for row in rows for _, picture in row])
    cells = [[(label, to_pil(picture)) for label, picture in row] for row in rows]
    return to_tensor(sheet(cells, title, min(512, max(pictures.shape[1:3])))), pictures
