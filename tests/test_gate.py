"""Pictures and masks of other packs, at the edge of the nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import unhosted

PICTURE = torch.rand(2, 5, 7, 3, generator=torch.Generator().manual_seed(0))
MASK = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def gate() -> Iterator[Any]:
    with unhosted.pack() as module:
        yield module("nodes.host.gate")


@pytest.mark.parametrize(
    ("given", "wanted", "said"),
    [
        (PICTURE, PICTURE, 0),
        (PICTURE[0], PICTURE[:1], 0),
        (PICTURE.half(), PICTURE.half().float(), 0),
        (torch.cat([PICTURE, MASK[..., None]], -1), torch.cat([PICTURE, MASK[..., None]], -1), 0),
        (MASK[..., None], MASK[..., None].expand(2, 5, 7, 3), 0),
        (PICTURE.movedim(-1, 1), PICTURE, 1),
        (PICTURE * 255, PICTURE, 1),
        ((PICTURE * 255).round().byte(), (PICTURE * 255).round() / 255, 1),
        (PICTURE * 1.2 - 0.1, (PICTURE * 1.2 - 0.1).clamp(0, 1), 0),
    ],
    ids=["whole", "one", "half", "alpha", "grey", "colours first", "255", "bytes", "overshoot"],
)
def test_pictures_are_taken_right(gate: Any, given: torch.Tensor, wanted: torch.Tensor, said: int):
    told: list[str] = []
    found = gate.picture(given, "image", told.append)
    torch.testing.assert_close(found, wanted)
    assert found.dtype == torch.float32 and len(told) == said


@pytest.mark.parametrize(
    ("given", "wanted", "said"),
    [
        (MASK, MASK, 0),
        (MASK[0], MASK[:1], 0),
        (MASK[:, None], MASK, 0),
        (MASK[..., None], MASK, 0),
        (MASK > 0.5, (MASK > 0.5).float(), 0),
        (MASK * 255, MASK, 1),
        ((MASK > 0.5).to(torch.uint8) * 255, (MASK > 0.5).float(), 1),
        ((MASK > 0.5).to(torch.uint8), (MASK > 0.5).float(), 0),
        ((MASK > 0.5).long(), (MASK > 0.5).float(), 0),
    ],
    ids=["whole", "one", "channel first", "channel last", "bool", "255", "bytes", "0 and 1 in bytes", "long"],
)
def test_masks_are_taken_right(gate: Any, given: torch.Tensor, wanted: torch.Tensor, said: int):
    told: list[str] = []
    found = gate.mask(given, "region", told.append)
    torch.testing.assert_close(found, wanted)
    assert found.dtype == torch.float32 and len(told) == said


NAN = torch.full((1, 5, 7), float("nan"))


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("picture", torch.rand(2, 5, 7, 2), r"image has the shape \(2, 5, 7, 2\); an IMAGE has"),
        ("picture", torch.rand(5, 7), r"shape \(5, 7\)"),
        ("picture", torch.rand(1, 2, 5, 7, 3), "shape"),
        ("picture", torch.rand(0, 5, 7, 3), "image is empty"),
        ("picture", NAN[..., None].expand(1, 5, 7, 3), "NaN or infinite"),
        ("picture", PICTURE * 2 - 1, r"values from -\S+ to"),
        ("picture", PICTURE + 0.5, "ComfyUI's are 0 to 1"),
        ("picture", PICTURE * 65535, "values from"),
        ("picture", "a.png", "image is str; an IMAGE is a tensor"),
        ("mask", torch.rand(2, 3, 5, 7), "a MASK has"),
        ("mask", torch.rand(5), "shape"),
        ("mask", NAN, "NaN or infinite"),
        ("mask", torch.rand(1, 0, 7), "image is empty"),
        ("mask", -MASK, "values from"),
    ],
)
def test_what_is_no_picture_and_no_mask_is_one_sentence(gate: Any, kind: str, given: Any, words: str):
    with pytest.raises(Exception, match=words) as caught:
        getattr(gate, kind)(given, "image", print)
    assert type(caught.value).__name__ == "ImageError"
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 400
