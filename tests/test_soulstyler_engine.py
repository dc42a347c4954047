"""The CLIP-guided engine on tiny random networks: what must hold whatever the weights are."""

from __future__ import annotations

from typing import Any

import pytest
import soulstyler_tiny as tiny
import torch
from safetensors.torch import save_file

from rechar_core.errors import FileError, ImageError, ModelError, RecipeError
from rechar_core.soulstyler import crops, losses
from rechar_core.soulstyler.compositing import check_object, composite, fit_mask, padded, shaped
from rechar_core.soulstyler.guide import load_guide, load_vgg
from rechar_core.soulstyler.network import StyleNet
from rechar_core.soulstyler.stylise import Restyling, StyleRecipe, Stylisation
from rechar_core.soulstyler.templates import TEMPLATES

GUIDE = tiny.guide()
HEIGHT, WIDTH = 44, 60  # neither square nor a multiple of 8


def picture(batch: int = 1) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH), indexing="ij")
    return torch.stack([y, x, (x + y) / 2], -1).expand(batch, -1, -1, -1).clone()


def square(batch: int = 1) -> torch.Tensor:
    mask = torch.zeros(batch, HEIGHT, WIDTH)
    mask[:, 10:34, 14:42] = 1
    return mask


def recipe(**changes: Any) -> StyleRecipe:
    return StyleRecipe("cubism", **{"steps": 4, "crops": 4, "crop_size": 12, **changes})


def run(image=None, mask=None, composited=True, **changes: Any):
    work = Restyling(
        GUIDE,
        picture() if image is None else image,
        square() if mask is None else mask,
        recipe(**changes),
        composited,
    )
    with torch.inference_mode():  # as in a node
        steps = list(work.steps())
        return work.result(), steps


def test_outside_the_mask_is_bit_equal_and_inside_is_not():
    out, _ = run()
    outside = square()[0] == 0
    assert torch.equal(out[0][outside], picture()[0][outside])
    assert (out[0][~outside] - picture()[0][~outside]).abs().mean() > 0.01


def test_outside_error_falls_as_t_rises_where_nothing_is_composited():
    outside = square()[0] == 0
    errors = []
    for t in (0.0, 0.3, 0.7, 1.5):
        out, _ = run(composited=False, t=t, steps=30)
        errors.append(float((out - picture()).square()[0][outside].mean()))
    assert errors == sorted(errors, reverse=True) and len(set(errors)) == 4


def test_total_loss_falls():
    _, steps = run(steps=30)
    assert steps[-1].loss < 0.9 * steps[0].loss
    assert set(steps[0].parts) == {"patch", "content", "smoothness", "background"}
    assert steps[0].loss == pytest.approx(sum(steps[0].parts.values()), rel=1e-5)


def test_same_seed_same_result_and_the_global_generator_is_untouched():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = run(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first, run(seed=3)[0])
    assert not torch.equal(first, run(seed=4)[0])


def test_an_empty_mask_is_an_error_unless_the_picture_may_stay():
    """A failure means that a mask which was forgotten gives the picture back as if it were the result."""
    masks = torch.zeros(3, 8, 8)
    masks[1] = 1
    with pytest.raises(ImageError, match="The mask is empty: white is where"):
        check_object(masks[:1], "error")
    with pytest.raises(ImageError, match="The mask of picture 1, 3 is empty"):
        check_object(masks, "error")
    assert (
        check_object(masks, "keep the picture")
        == "The mask of picture 1, 3 is empty; the picture stays as it is."
    )
    assert check_object(masks[1:2], "error") == ""
    out, steps = run(mask=torch.zeros(1, HEIGHT, WIDTH))
    assert torch.equal(out, picture()) and steps == []


def test_a_full_mask_and_a_single_pixel_work():
    out, steps = run(mask=torch.ones(1, 7, 9))
    assert out.isfinite().all() and steps[0].parts["background"] == 0
    dot = torch.zeros(1, HEIGHT, WIDTH)
    dot[0, 20, 20] = 1
    out, _ = run(mask=dot)
    assert int((out != picture()).any(-1).sum()) == 1


def test_one_mask_serves_a_batch_and_each_picture_may_have_its_own():
    both, steps = run(image=picture(2))
    assert both.shape == (2, HEIGHT, WIDTH, 3) and len(steps) == 8
    assert torch.equal(both[0], both[1]) and torch.equal(both[:1], run()[0])
    masks = square(2)
    masks[1] = 0
    out, steps = run(image=picture(2), mask=masks)
    assert torch.equal(out[1], picture()[0]) and torch.equal(out[0], both[0]) and len(steps) == 4


def test_a_run_can_be_left_after_any_step():
    work = Restyling(GUIDE, picture(), square(), recipe(steps=1000))
    steps = work.steps()
    assert next(steps).loss > 0 and next(steps).loss > 0
    steps.close()
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_modes_do_not_leak_between_steps():
    with torch.inference_mode():
        for _ in Restyling(GUIDE, picture(), square(), recipe(steps=2)).steps():
            assert torch.is_inference_mode_enabled()


def test_a_large_picture_is_fitted_small_and_drawn_at_its_own_size():
    out, steps = run(resolution=24, composited=False)
    assert steps[0].picture.shape[-2:] == (24, 33) and out.shape == (1, HEIGHT, WIDTH, 3)


def test_the_text_matters():
    assert not torch.equal(run(steps=2)[0], Restyled("fire").picture)


class Restyled:
    def __init__(self, style: str):
        work = Restyling(GUIDE, picture(), square(), StyleRecipe(style, steps=2, crops=4, crop_size=12))
        list(work.steps())
        self.picture = work.result()


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"t": -1.0}, "t is -1.0"), ({"steps": 0}, "steps is 0"), ({"crop_size": 4}, "crop_size is 4")],
)
def test_a_recipe_out_of_range_is_refused(changes: dict, words: str):
    with pytest.raises(RecipeError, match=words):
        recipe(**changes)
    with pytest.raises(RecipeError, match="style is empty"):
        StyleRecipe("  ")


def test_a_mask_is_enlarged_softly():
    """A failure means stairs along the object's edge, where a small mask meets a large picture."""
    half = torch.zeros(1, 2, 2)
    half[:, :, 1] = 1
    values = fit_mask(half, torch.zeros(1, 8, 8, 3)).unique()
    assert ((values > 0) & (values < 1)).any()


def test_bad_pictures_and_masks_are_refused():
    with pytest.raises(ImageError, match="9 x 44"):
        Restyling(GUIDE, picture()[:, :, :9], square(), recipe())
    with pytest.raises(ImageError, match="3 masks for 2 pictures"):
        fit_mask(square(3), picture(2))
    with pytest.raises(ImageError, match="NaN"):
        fit_mask(square() * float("nan"), picture())


# Crops


def test_windows_qualify_and_lie_inside():
    covered = crops.coverage(square()[0], 12)
    assert covered.shape == (HEIGHT - 11, WIDTH - 11)
    draws = torch.Generator().manual_seed(0)
    for y, x in crops.object_windows(covered, 200, 0.8, draws).tolist():
        assert square()[0, y : y + 12, x : x + 12].mean() >= 0.8 - 1e-6
    for y, x in crops.background_windows(covered, 200, 0.1, draws).tolist():
        assert square()[0, y : y + 12, x : x + 12].mean() < 0.1


def test_coverage_is_exact():
    mask = torch.rand(23, 31, generator=torch.Generator().manual_seed(0))
    covered = crops.coverage(mask, 7)
    assert covered[5, 9] == pytest.approx(float(mask[5:12, 9:16].mean()), abs=1e-6)
    assert covered[-1, -1] == pytest.approx(float(mask[-7:, -7:].mean()), abs=1e-6)


def test_a_small_object_gives_its_fullest_windows():
    mask = torch.zeros(40, 40)
    mask[20:23, 20:23] = 1
    covered = crops.coverage(mask, 16)
    chosen = crops.object_windows(covered, 50, 0.8, torch.Generator().manual_seed(0))
    assert len(chosen) == 50 and all(covered[y, x] == covered.max() for y, x in chosen.tolist())


def test_no_distortion_is_plain_resizing():
    matrices = crops.homographies(2, 0.0, torch.Generator())
    assert torch.allclose(matrices, torch.eye(3).expand(2, 3, 3), atol=1e-6)
    made = torch.rand(2, 3, 8, 8)
    assert torch.allclose(crops.bend(made, matrices, 8), made, atol=1e-5)


def test_perspective_is_black_outside_and_keeps_the_picture_inside():
    matrices = crops.homographies(16, 0.5, torch.Generator().manual_seed(0))
    bent = crops.bend(torch.ones(16, 3, 8, 8), matrices, 32)
    assert bent[:, :, 16, 16].min() > 0.99 and (bent == 0).any()
    assert not torch.equal(bent[0], bent[1])


# Losses and the network


def test_directions_below_the_threshold_count_nothing():
    source, direction = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    moves = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert losses.patch_loss(moves, source, direction, 0.7) == pytest.approx((0 + 1 + 2) / 3)
    assert losses.patch_loss(moves[:1], source, direction, 0.7) == 0


def test_background_errors_are_added_up_over_crops():
    crop = torch.full((3, 3, 4, 4), 0.5)
    assert losses.background_loss(crop, crop * 0) == pytest.approx(0.75)
    assert losses.background_loss(crop[:0], crop[:0]) == 0


def test_smoothness_adds_the_norms_of_four_directions():
    """A lone pixel of each colour differs from two neighbours along each: a norm of the root of 3 * 2."""
    assert losses.smoothness_loss(torch.full((1, 3, 9, 9), 0.3)) == 0
    dot = torch.zeros(1, 3, 9, 9)
    dot[..., 4, 4] = 1
    assert losses.smoothness_loss(dot) == pytest.approx(4 * 6**0.5)


def test_content_adds_the_layers_errors():
    ones = [torch.ones(1, 2, 3, 3), torch.ones(1, 4, 2, 2)]
    assert losses.content_loss(ones, [ones[0] * 0, ones[1] * 3]) == pytest.approx(1 + 4)
    first, last = GUIDE.vgg(picture().movedim(-1, 1))
    assert min(first.min(), last.min()) == 0  # both behind their ReLU
    assert (first.shape[-2:], last.shape[-2:]) == ((HEIGHT // 8, WIDTH // 8), (HEIGHT // 16, WIDTH // 16))


def test_the_published_weights_and_schedule():
    defaults = StyleRecipe("cubism")
    weights = (defaults.patch, defaults.content, defaults.smoothness, defaults.background)
    assert weights == (9000, 150, 0.002, 150)
    assert (defaults.steps, defaults.learning_rate, defaults.crops, defaults.crop_size) == (201, 5e-4, 64, 64)
    work = Stylisation(GUIDE, picture().movedim(-1, 1), square()[0], recipe(steps=3, crops=1))
    assert len(list(work.steps())) == work.schedule.last_epoch == 3
    rates = []
    for _ in range(98):
        rates += work.schedule.get_last_lr()
        work.schedule.step()
    assert rates[96] == 5e-4 and rates[97] == 2.5e-4  # after 100 steps


def test_the_network_is_as_small_as_published_and_takes_any_size():
    network = StyleNet(torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(0.6e6, rel=0.05)
    out = network(torch.rand(1, 3, 17, 42))
    assert out.shape == (1, 3, 17, 42) and out.min() >= 0 and out.max() <= 1


def test_there_are_79_sentences():
    assert len(set(TEMPLATES)) == len(TEMPLATES) == 79 and all("{}" in t for t in TEMPLATES)


# Masks


def test_composite_is_exact_at_both_ends():
    a, b = torch.rand(1, 4, 4, 3), torch.full((1, 4, 4, 3), float("nan"))
    assert torch.equal(composite(a, b, torch.zeros(1, 4, 4)), a)
    assert torch.equal(composite(a, a.flip(1), torch.ones(1, 4, 4)), a.flip(1))


def test_growing_shrinking_and_feathering():
    mask = square()
    assert shaped(mask, 3).sum() == (24 + 6) * (28 + 6) and shaped(mask, -3).sum() == (24 - 6) * (28 - 6)
    soft = shaped(mask, 0, 5)
    assert ((soft > 0) <= (shaped(mask, 5) > 0)).all() and 0.4 < soft[0, 10, 20] < 0.6
    assert torch.equal(shaped(mask), mask)


def test_padding_repeats_the_edge_up_to_whole_cells():
    out = padded(picture())
    assert out.shape == (1, 48, 64, 3) and torch.equal(out[:, :HEIGHT, :WIDTH], picture())
    assert torch.equal(out[0, 47, 63], picture()[0, -1, -1])
    assert padded(square()).shape == (1, 48, 64)


# Files


def test_missing_weights_are_named_with_their_folder(tmp_path):
    with pytest.raises(FileError, match="lacks config.json, model.safetensors") as error:
        load_guide(tmp_path / "clip", tmp_path / "vgg19.safetensors")
    assert str(tmp_path / "clip") in str(error.value)
    with pytest.raises(FileError, match=r"no vgg19.safetensors in .*timm/vgg19.tv_in1k"):
        load_vgg(tmp_path / "vgg19.safetensors")


def test_wrong_weights_are_refused(tmp_path):
    file = tmp_path / "vgg19.safetensors"
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, file)
    with pytest.raises(ModelError, match="not VGG19: it lacks"):
        load_vgg(file)
    file.write_bytes(b"garbage")
    with pytest.raises(FileError, match="not a safetensors file"):
        load_vgg(file)


def test_a_guide_from_files_works_when_loaded_inside_inference_mode(tmp_path):
    """A failure means that the host's loader node gives weights that no gradient can pass."""
    folder, file = tiny.clip_folder(tmp_path / "clip"), tiny.vgg_file(tmp_path / "vgg19.safetensors")
    with torch.inference_mode():
        guide = load_guide(folder, file)
        image, mask = picture(), square()
        work = Stylisation(guide, image.movedim(-1, 1), mask[0], recipe(steps=1))
        (step,) = work.steps()
    assert step.loss > 0 and guide.side == 32
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in work.network.parameters())
