"""References in the cross-attention against diffusers' IP-Adapter, and the layout maps in closed form."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import adapters
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rechar_core.errors import ImageError
from rechar_core.synthesis.references import encoding
from rechar_core.synthesis.references import layout as maps
from rechar_core.synthesis.references.attention import Branch, Reference, blend
from rechar_core.synthesis.references.encoding import kept_tokens, reference_of
from rechar_core.synthesis.references.errors import AdapterError
from rechar_core.synthesis.references.layout import Layout, gates, official_grid
from rechar_core.synthesis.references.preview import layout_of, preview
from rechar_core.synthesis.references.projection import IPAdapter, attend, ip_adapter_of

CONTEXT = 64
SIZES = [(16, 16), (16, 24), (24, 16), (17, 24)]


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    """A small random SDXL with eleven cross-attentions of two widths."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    made = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        attention_head_dim=(1, 1, 2),
        norm_num_groups=32,
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=CONTEXT,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def widths(unet: torch.nn.Module) -> tuple[int, ...]:
    return tuple(unet.get_submodule(n).inner_dim for n in adapters.cross_attentions(unet))


@pytest.fixture(scope="module")
def states(widths: tuple[int, ...]) -> list[adapters.State]:
    return [adapters.plus(widths, CONTEXT), adapters.plain(widths, CONTEXT)]


def features(kind: str, seed: int = 5) -> Tensor:
    """What an image encoder gives: hidden states or a pooled embedding of the conditional and unconditional half."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, 17, 48, generator=draw) if kind == "plus" else torch.randn(2, 24, generator=draw)


def reference(adapter: IPAdapter, role: str = "structure") -> Reference:
    tokens = adapter.tokens(features(adapter.kind))
    return Reference(adapter, role, tokens[0], tokens[1])


def mask(height: int, width: int, seed: int = 2) -> Tensor:
    """A coarse random shape at eight pixels a latent cell, partly covering the picture."""
    draw = torch.Generator().manual_seed(seed)
    rough = torch.rand(1, 1, 4, 5, generator=draw)
    return torch.nn.functional.interpolate(rough, (height * 8, width * 8), mode="bilinear")[0, 0]


# Projections


@pytest.mark.parametrize("kind", ["plus", "plain"])
def test_tokens_are_those_of_diffusers(unet: torch.nn.Module, states: list[adapters.State], kind: str):
    state = states[("plus", "plain").index(kind)]
    theirs = unet._convert_ip_adapter_image_proj_to_diffusers(
        adapters.halves(state)["image_proj"], low_cpu_mem_usage=False
    )
    ours = ip_adapter_of(state, "x")
    with torch.no_grad():
        expected = theirs(features(kind))
    assert ours.kind == kind
    assert (ours.tokens(features(kind)) - expected).abs().max() < 1e-5
    assert expected.std() > 0.1


def test_a_resampler_takes_any_number_of_tokens(states: list[adapters.State]):
    """Dropped image tokens leave the sequence, and none of the kept ones stands for them."""
    adapter, seen = ip_adapter_of(states[0], "x"), features("plus")
    changed = seen.clone()
    changed[:, 5:] = 100.0
    assert torch.equal(adapter.tokens(seen[:, :5]), adapter.tokens(changed[:, :5]))
    assert (adapter.tokens(seen[:, :5]) - adapter.tokens(seen)).abs().max() > 1e-3


# Attention


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("masked", ["none", "both", "first"])
@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)], ids=["plus", "plain", "two"])
def test_every_layer_is_that_of_diffusers(
    unet: torch.nn.Module,
    states: list[adapters.State],
    used: tuple[int, ...],
    masked: str,
    size: tuple[int, int],
):
    """Both halves of a batch, scales unlike 1, at every layer's own width; a failure means another picture."""
    scales = [1.5, 0.8][: len(used)]
    chosen = [adapters.halves(states[i]) for i in used]
    theirs = unet._convert_ip_adapter_attn_to_diffusers(chosen, low_cpu_mem_usage=False)
    shape = mask(*size)
    roles = ("structure", "style")
    with_mask = {"none": (), "both": roles, "first": roles[:1]}[masked]
    layout = Layout(dict.fromkeys(with_mask, shape), "off", mask_mode="official")
    references = [reference(ip_adapter_of(states[i], "x"), roles[n]) for n, i in enumerate(used)]
    binary = (shape >= 0.5).float()[None, None]
    everywhere = torch.ones_like(binary)  # as no mask; diffusers before 0.33 takes no None beside a mask
    masks = (
        [binary if role in with_mask else everywhere for role in roles[: len(used)]] if with_mask else None
    )
    worst = 0.0
    for number, name in enumerate(adapters.cross_attentions(unet)):
        attention, processor = unet.get_submodule(name), theirs[f"{name}.processor"]
        processor.scale = scales
        draw = torch.Generator().manual_seed(number)
        hidden = torch.randn(4, size[0] * size[1], attention.query_dim, generator=draw)
        text = torch.randn(4, 7, CONTEXT, generator=draw)
        branches = [r.at_layer(number, s) for r, s in zip(references, scales)]
        # the batch is [unconditional, unconditional, conditional, conditional]
        tokens = [
            torch.stack([r.unconditional, r.unconditional, r.conditional, r.conditional])[:, None]
            for r in references
        ]
        with torch.no_grad():
            expected = processor(
                attention,
                hidden,
                (text, [t if masks else t[:, 0] for t in tokens]),
                ip_adapter_masks=masks,
            )
            query = attention.to_q(hidden)
            plain = attend(query, attention.to_k(text), attention.to_v(text), attention.heads)
            found = blend(query, plain, branches, layout, size, [1, 0], attention.heads)
            found = attention.to_out[0](found)
        worst = max(worst, (found - expected).abs().max().item())
        assert (attention.to_out[0](plain) - expected).abs().max() > 1e-2
    assert worst < 1e-5


@pytest.mark.filterwarnings("ignore:The aspect ratio of the mask")
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("square", [False, True])
def test_masks_come_to_the_grid_as_in_diffusers(size: tuple[int, int], square: bool):
    """Also where the mask has another aspect than the picture: padded or cut as diffusers does."""
    from diffusers.image_processor import IPAdapterMaskProcessor

    cells, shape = size[0] * size[1], mask(16, 16) if square else mask(*size)
    binary = (shape >= 0.5).float()[None]
    expected = IPAdapterMaskProcessor.downsample(binary, 1, cells, 1)
    _, (found,) = Layout({"style": shape}, "off", mask_mode="official").weights(["style"], size)
    assert torch.equal(found, expected)
    assert expected.min() < 0 or expected.max() > 1  # bicubic, not clamped


def test_the_official_grid_of_another_aspect_is_not_the_layers_own():
    assert official_grid((1024, 1024), 4096) == (64, 64)
    assert official_grid((768, 1024), 48 * 64) == (48, 64)
    assert official_grid((1024, 1024), 48 * 64) == (56, 54)  # another aspect: 48 cells are padded with 0


@pytest.mark.parametrize("mode", sorted(set(maps.MASK_MODES) - {"official"}))
def test_a_mask_of_another_aspect_than_the_latent_is_an_error(mode: str):
    """A failure means that a layout is stretched, and its parts act where nobody drew them."""
    layout = Layout({"style": mask(16, 24)}, mask_mode=mode)
    assert layout.weights(["style"], (8, 12))[1][0].shape == (1, 96, 1)
    with pytest.raises(ImageError, match="The mask is 192 x 128 and the latent 8 x 12"):
        layout.weights(["style"], (12, 8))


def test_a_very_flat_mask_has_an_official_grid():
    """Where diffusers divides by zero."""
    assert official_grid((4, 4096), 256) == (1, 256)
    layout = Layout({"structure": torch.ones(4, 4096)}, mask_mode="official")
    assert layout.weights(["structure"], (1, 256))[1][0].shape == (1, 256, 1)


@pytest.mark.parametrize(
    ("operator", "tau"), [*itertools.product(["off", "softmax", "gated_softmax"], [0.3, 1.0])]
)
def test_a_mask_confines_the_effect(states: list[adapters.State], operator: str, tau: float):
    """Outside a reference's mask a layer's output does not depend on the reference's picture (not by softmax)."""
    layer = reference(ip_adapter_of(states[0], "x")).at_layer(0, 1.0)
    other = Branch(layer.role, layer.scale, layer.keys.flip(2), layer.values.flip(2))
    half = torch.zeros(16, 16)
    half[:, :8] = 1
    layout = Layout({"structure": half}, operator, tau)
    draw = torch.Generator().manual_seed(0)
    query, text = torch.randn(2, 1, 256, 32, generator=draw)
    one, two = (blend(query, text, [b], layout, (16, 16), [0], 1) for b in (layer, other))
    moved = (one - two).abs().amax(-1).view(16, 16)
    assert moved[:, :8].min() > 1e-4
    assert (moved[:, 8:].max() == 0) == (operator != "softmax")  # softmax leaves a share everywhere


def test_a_third_half_is_unconditional(states: list[adapters.State]):
    """Perp-Neg's empty prompt, 2 in the host's numbering. A failure means an IndexError in the middle of sampling."""
    branch = reference(ip_adapter_of(states[1], "x")).at_layer(0, 1.0)
    query = torch.randn(3, 16, branch.keys.shape[-1], generator=torch.Generator().manual_seed(0))
    found = branch.look(query, (2, 1, 0), 1)
    for row, half in enumerate((1, 1, 0)):
        assert torch.allclose(found[row], branch.look(query[row : row + 1], (half,), 1)[0], atol=1e-6)


def test_copies_of_a_branch_and_a_layout_are_themselves(states: list[adapters.State]):
    """The host deep-copies patches at every clone. A failure means another copy of all keys and values each time."""
    branch = reference(ip_adapter_of(states[1], "x")).at_layer(0, 1.0)
    layout = halves_layout("gated_softmax")
    assert copy.deepcopy([branch, layout]) == [branch, layout]
    assert all(a is b for a, b in zip(copy.deepcopy([branch, layout]), (branch, layout), strict=True))


# Layout maps


def halves_layout(operator: str, tau: float = 1.0, mode: str = "area") -> Layout:
    """Text everywhere, structure on the left half, style on the upper quarter."""
    structure, style = torch.zeros(2, 8, 8)
    structure[:, :4] = 1
    style[:2] = 1
    return Layout({"structure": structure, "style": style}, operator, tau, mode)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_gates_weigh_small_areas_more():
    maps = torch.stack([torch.ones(64), torch.cat([torch.ones(16), torch.zeros(48)]), torch.zeros(64)])
    assert gates(maps).flatten().tolist() == pytest.approx([sigmoid(1), sigmoid(4), 1.0])


def test_r1_in_closed_form():
    text, (structure, style) = halves_layout("softmax", 0.5).weights(["structure", "style"], (8, 8))
    logits = [sigmoid(1) / 0.5, sigmoid(2) / 0.5, sigmoid(4) / 0.5]
    total = sum(map(math.exp, logits))
    weights = torch.stack([text, structure, style]).view(3, 8, 8)
    assert weights[:, 0, 0].tolist() == pytest.approx([math.exp(v) / total for v in logits])
    outside = math.exp(logits[0]) + 2
    assert weights[:, 7, 7].tolist() == pytest.approx([math.exp(logits[0]) / outside] + [1 / outside] * 2)
    assert torch.allclose(weights.sum(0), torch.ones(8, 8))


def test_r2_in_closed_form():
    text, (structure, style) = halves_layout("gated_softmax", 0.5).weights(["structure", "style"], (8, 8))
    weights = torch.stack([text, structure, style]).view(3, 8, 8)
    assert weights[:, 0, 0].tolist() == pytest.approx([sigmoid(1) / 3, sigmoid(2) / 3, sigmoid(4) / 3])
    share = math.exp(2) / (math.exp(2) + 2)
    assert weights[:, 7, 7].tolist() == pytest.approx([sigmoid(1) * share, 0, 0])


def test_limits_of_the_temperature():
    """Hot: softmax is the same everywhere. Cold: softmax gives each cell to the branch with the highest gate there."""
    text, weights = halves_layout("softmax", 1e6).weights(["structure", "style"], (8, 8))
    assert torch.allclose(torch.stack([text, *weights]), torch.tensor(1 / 3), atol=1e-5)
    text, (structure, style) = halves_layout("softmax", 1e-4).weights(["structure", "style"], (8, 8))
    assert torch.equal(style.view(8, 8)[:2], torch.ones(2, 8))
    assert torch.equal(structure.view(8, 8)[2:, :4], torch.ones(6, 4))
    assert torch.equal(text.view(8, 8)[2:, 4:], torch.ones(6, 4))


def test_off_leaves_the_text_alone_and_no_mask_is_exactly_one():
    assert Layout().weights(["structure", "style"], (8, 8)) == (None, [None, None])
    text, weights = halves_layout("off").weights(["style", "structure"], (8, 8))
    assert text is None and weights[0].view(8, 8)[:2].min() == 1 and weights[1].view(8, 8)[:, 4:].max() == 0


def test_mask_modes_on_a_thin_ring():
    """One pixel of 64: area keeps its small share, maxpool and distance more, fill the whole disc, official nothing."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    radius = ((y - 31.5) ** 2 + (x - 31.5) ** 2).sqrt()
    ring = ((radius > 19.5) & (radius < 20.5)).float()
    found = {
        mode: Layout({"style": ring}, mask_mode=mode).weights(["style"], (16, 16))[1][0].view(16, 16)
        for mode in ("official", "area", "maxpool", "fill", "distance")
    }
    assert found["area"].mean() == pytest.approx(ring.mean().item())
    assert found["maxpool"].mean() > 2 * found["area"].mean()
    assert found["fill"].mean() == pytest.approx(math.pi * 20.5**2 / 64**2, rel=0.02)
    assert found["fill"][8, 8] == 1 and found["maxpool"][8, 8] == 0 == found["area"][8, 8]
    assert found["distance"].mean() > 2 * found["area"].mean()


class Copies(TorchDispatchMode):
    """Counts the copies to another device or type."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def test_weights_are_moved_once_for_a_grid():
    """A failure means that every layer moves the layout's weights to the GPU again, at every step."""
    layout = Layout({"text": mask(8, 6, 3), "structure": mask(8, 6)}, "softmax")
    query, rows = torch.rand(2, 48, 8).double(), torch.rand(2, 4, 8).double()
    copies = []
    for _ in range(3):
        with Copies() as seen:
            blend(query, query, [Branch("structure", 1.0, rows, rows)], layout, (8, 6), (1, 0), 2)
        copies.append(seen.number)
    assert copies == [2, 0, 0]  # of the text's weight and of the reference's


def test_keys_and_values_are_worked_out_once_for_a_layer(states: list[adapters.State]):
    """A failure means that every picture multiplies the tokens with the matrices of all layers again."""
    one, cpu = reference(ip_adapter_of(states[0], "x")), torch.device("cpu")
    first, again = (one.at_layer(2, scale, cpu, torch.float64) for scale in (0.5, 1.5))
    assert first.keys is again.keys and first.values is again.values
    assert (first.scale, again.scale) == (0.5, 1.5)
    assert one.at_layer(2, 1.0, cpu, torch.float32).keys.dtype == torch.float32


def test_weights_are_worked_out_once_for_a_grid(monkeypatch: pytest.MonkeyPatch):
    """Every layer asks at every step; filling a megapixel takes longer than the layer itself."""
    asked = []
    modes = {"area": lambda mask, grid: asked.append(grid) or torch.ones(grid[0] * grid[1])}
    monkeypatch.setattr(maps, "MASK_MODES", modes)
    made = Layout({"style": torch.ones(8, 8)})
    for grid in ((4, 4), (2, 2), (4, 4), (2, 2), (4, 4)):
        _, (weight,) = made.weights(["style"], grid)
        assert weight.shape == (1, grid[0] * grid[1], 1)
    assert asked == [(4, 4), (2, 2)]
    assert made == Layout({"style": made.masks["style"]}) and "known" not in repr(made)


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operator": "max"}, "no operator 'max'"),
        ({"mask_mode": "max"}, "no mask mode 'max'"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"masks": {"style": torch.zeros(1, 8, 8)}}, "style mask has the shape"),
    ],
)
def test_a_layout_refuses_nonsense(change: dict, message: str):
    with pytest.raises(AdapterError, match=message):
        Layout(**change)


def test_an_error_names_what_fits(states: list[adapters.State], widths: tuple[int, ...]):
    real = adapters.plain([640], 2048, embedding=1280)
    with pytest.raises(AdapterError, match=r"gives 1024; load CLIP-ViT-bigG-14"):
        ip_adapter_of(real, "ip-adapter_sdxl").check_encoder(1280, 1024)
    with pytest.raises(AdapterError, match=r"CLIP-ViT-L-14\) gives 1024; load CLIP-ViT-H-14"):
        ip_adapter_of(adapters.plus([640], 2048, hidden=1280), "plus").check_encoder(1024, 768)
    with pytest.raises(AdapterError, match=rf"made for {len(widths)} .* MODEL has 2;"):
        ip_adapter_of(states[0], "x").check_layers(widths[:2])
    with pytest.raises(AdapterError, match="SD 1.5"):
        ip_adapter_of(adapters.plain([320] * 16, 768), "x").check_layers((640,) * 70)
    ip_adapter_of(states[0], "x").check_layers(widths)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"lora_up.weight": torch.zeros(2, 2)}, "no IP-Adapter"),
        (
            {"image_proj.proj.3.weight": torch.zeros(2), "ip_adapter.1.to_k_ip.weight": torch.zeros(2, 2)},
            "full-face",
        ),
        (
            {k: t for k, t in adapters.plain([8], 8).items() if "to_v" not in k},
            "lacks the tensor '1.to_v_ip.weight'",
        ),
        (adapters.plain([8], 8) | {"ip_adapter.1.to_k_ip.weight": torch.zeros(8, 4)}, "contradicts itself"),
    ],
)
def test_other_files_are_refused(state: adapters.State, message: str):
    with pytest.raises(AdapterError, match=message):
        ip_adapter_of(state, "x")


# Encoding


def test_a_class_token_is_not_a_place_in_the_picture():
    """A failure means that every kept token is the neighbour of the right one."""
    assert encoding._positions(torch.tensor([True, False, False, True])).tolist() == [1, 4]


def test_kept_tokens_follow_the_encoders_square():
    """A wide picture is cut to its middle before it is encoded, and so is its mask."""
    mask = torch.zeros(1, 40, 80)
    mask[:, :20, 40:] = 1
    found = kept_tokens(mask, (160, 320), 4).view(4, 4)
    assert found.tolist() == [[False, False, True, True]] * 2 + [[False] * 4] * 2


def test_pictures_of_a_batch_lie_side_by_side(states: list[adapters.State]):
    adapter = ip_adapter_of(states[0], "x")
    seen, nothing = torch.randn(3, 17, 48), torch.zeros(1, 17, 48)
    made = reference_of(adapter, "style", seen, nothing)
    assert torch.equal(made.conditional, adapter.tokens(seen).flatten(0, 1))
    assert made.unconditional.shape == made.conditional.shape == (18, CONTEXT)
    kept = torch.ones(2, 16, dtype=torch.bool)
    with pytest.raises(AdapterError, match="2 masks for 3 reference pictures"):
        reference_of(adapter, "style", seen, nothing, kept)


def test_the_preview_shows_three_branches():
    for layout in (
        Layout(),
        Layout({}, "softmax"),
        halves_layout("gated_softmax"),
        halves_layout("off", mode="official"),
    ):
        page = preview(layout)
        assert page.shape[0] == 1 and page.shape[-1] == 3 and page.std() > 0.05
    joined = layout_of(
        {"style_mask": torch.eye(8)[:, None].expand(8, 8, 8), "text_mask": None}, "off", 1.0, "area"
    )
    assert (
        set(joined.masks) == {"style"}
        and joined.masks["style"].shape == (8, 8)
        and joined.masks["style"].min() == 1
    )
