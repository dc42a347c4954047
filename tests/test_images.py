"""Reading and fitting pictures."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

from rechar_core import images
from rechar_core.errors import ImageError


def save(path, picture):
    picture.save(path)
    return path


def test_fit_matches_the_reference_trainers_resize(tmp_path):
    """The reference resizes with PIL (bilinear, antialias); ours works on tensors and may differ by rounding only."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    ours = images.fit(images.read(save(tmp_path / "a.png", picture)), 240)
    theirs = np.asarray(picture.resize((400, 240), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    assert ours.shape == (1, 240, 400, 3)
    assert np.abs(ours[0].numpy() - theirs).max() < 1.5 / 255


def test_a_mask_is_a_batch_or_a_single_one():
    """A failure means that the rows of a mask (H, W) are taken for masks."""
    masks = torch.rand(3, 4, 5)
    assert torch.equal(images.batch_of(masks), masks)
    assert torch.equal(images.batch_of(masks[0]), masks[:1])


@pytest.mark.parametrize(
    ("mask", "picture"),
    [
        *(((64, 48), (64, 48)), ((32, 24), (64, 48)), ((128, 128), (1024, 1024)), ((744, 1000), (750, 1000))),
        *(((7, 9), (30, 40)), ((1024, 768), (32, 24)), ((1024, 1000), (32, 31)), ((1, 1), (64, 64))),
    ],
)
def test_a_mask_of_the_pictures_shape_fits_in_any_resolution(mask, picture):
    """A failure means that a mask at latent size, or cut to whole latent cells, is refused."""
    images.check_same_shape(torch.ones(1, *mask), picture)


@pytest.mark.parametrize(
    ("mask", "picture"),
    [((48, 64), (64, 48)), ((64, 64), (64, 48)), ((512, 512), (1024, 1000)), ((8, 10), (80, 80))],
)
def test_a_mask_of_another_shape_is_an_error_that_names_both_sizes(mask, picture):
    """A failure means that a mask is stretched over a picture it was not made for."""
    named = f"The mask is {mask[1]} x {mask[0]} and the picture {picture[1]} x {picture[0]}"
    with pytest.raises(ImageError, match=named):
        images.check_same_shape(torch.ones(*mask), picture)


def test_pictures_of_floats_have_their_greys(tmp_path):
    """A failure means that a 32-bit TIFF, as renderers and scientists write it, is read as black."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    for scale in (1, 255):
        read = images.read(save(tmp_path / f"{scale}.tif", Image.fromarray(ramp * scale)))
        assert np.abs(read[0, ..., 0].numpy() - ramp).max() < 0.6 / 255
    ramp[0, :2] = np.nan, np.inf
    odd = images.read(save(tmp_path / "odd.tif", Image.fromarray(ramp)))
    assert odd[0, 0, :2, 0].tolist() == [0, 1] and odd[0, 15, 15, 0] == 1


def test_a_folder_takes_every_kind_that_a_file_may_be(tmp_path):
    """A failure means that half of a folder is not trained on, without a word."""
    written = []
    for ending in ("avif", "gif", "jp2", "png", "webp", "TIFF"):
        with contextlib.suppress(KeyError, OSError, ValueError):  # a Pillow without that kind
            written.append(save(tmp_path / f"a.{ending}", Image.new("RGB", (8, 8), "red")))
    assert len(written) >= 4
    assert set(images.list_pictures(tmp_path)) == set(written)


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 200), (64, 128)), ((200, 100), (128, 64)), ((77, 77), (64, 64))]
)
def test_fit_keeps_the_whole_picture(size, expected):
    fitted = images.fit(torch.rand(1, *size, 3), 64)
    assert tuple(fitted.shape[1:3]) == expected
    assert fitted.min() >= 0 and fitted.max() <= 1


def test_fit_rounds_to_the_nearest_eight():
    """A failure means that up to eight pixels more of a picture are squeezed away."""
    assert images.fit(torch.rand(1, 100, 195, 3), 64).shape[2] == 128  # 124.8; rounded down it is 120


def test_fit_leaves_a_fitting_picture_alone():
    image = torch.rand(1, 64, 128, 3)
    assert torch.equal(images.fit(image, 64), image)


def test_transparency_of_an_image_in_the_graph_is_white_and_grey_is_colour():
    """A failure means that a cut-out glyph is trained as black on black."""
    black = torch.zeros(2, 3, 5, 4)
    black[:, :, 2:, 3] = 0.5
    flat = images.rgb(black)
    assert flat.shape == (2, 3, 5, 3)
    assert (flat[:, :, :2] == 1).all() and (flat[:, :, 2:] == 0.5).all()
    assert torch.equal(images.rgb(black[..., 3:]), black[..., 3:].repeat(1, 1, 1, 3))
    assert torch.equal(images.rgb(flat), flat)


def test_extreme_shape_is_refused():
    with pytest.raises(ImageError, match="1000 x 10; .* factor of 8"):
        images.fit(torch.rand(1, 10, 1000, 3), 64)


def test_read_lays_transparency_on_white_and_turns_upright(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert images.read(save(tmp_path / "clear.png", clear)).min() == 1
    turned = Image.new("RGB", (4, 8), "black")
    exif = turned.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert images.read(tmp_path / "turned.jpg").shape == (1, 4, 8, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "I;16"])
def test_read_understands_every_common_mode(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    grey = Image.new("I;16", (4, 4), 32896) if mode == "I;16" else Image.new("L", (4, 4), 128).convert(mode)
    read = images.read(save(tmp_path / f"a.{suffix}", grey))
    assert read.shape == (1, 4, 4, 3)
    if mode != "1":
        assert torch.allclose(read, torch.full_like(read, 128 / 255), atol=0.02)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "text.png").write_text("hello", encoding="utf-8")
    good = save(
        tmp_path / "good.png",
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")),
    )
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:3000])
    for name, words in [
        ("none.png", "no picture at"),
        ("text.png", "not a picture"),
        ("cut.png", "damaged or cut"),
    ]:
        with pytest.raises(ImageError, match=words):
            images.read(tmp_path / name)


def test_list_pictures(tmp_path):
    with pytest.raises(ImageError, match="holds no picture"):
        images.list_pictures(tmp_path)
    with pytest.raises(ImageError, match="no picture or folder"):
        images.list_pictures(tmp_path / "gone")
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in images.list_pictures(tmp_path)] == ["a.JPG", "b.png"]


def test_to_pil_round_trip():
    picture = torch.randint(0, 256, (5, 7, 3)) / 255
    assert torch.equal(images.to_tensor(images.to_pil(picture))[0], picture)


def test_the_statistics_of_encoders_are_those_of_transformers():
    from transformers import image_utils

    clip = image_utils.OPENAI_CLIP_MEAN, image_utils.OPENAI_CLIP_STD
    imagenet = image_utils.IMAGENET_DEFAULT_MEAN, image_utils.IMAGENET_DEFAULT_STD
    assert tuple(map(tuple, clip)) == images.CLIP and tuple(map(tuple, imagenet)) == images.IMAGENET
