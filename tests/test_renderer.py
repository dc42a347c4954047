"""The passes on diffusers against diffusers' own pipelines: prompt, ControlNet, IP-Adapters with masks, all at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import adapters
import loras
import pytest
import tiny
import torch
from torch import Tensor

from rechar_core.backend.renderer import DiffusersIPAdapters, DiffusersRenderer
from rechar_core.backend.text_encoding import encode_prompt_tokens
from rechar_core.errors import RecipeError
from rechar_core.lora.fusion import fuse
from rechar_core.synthesis.elements import build_prompt
from rechar_core.synthesis.modes import mode_named
from rechar_core.synthesis.passes import Passes, RenderJob
from rechar_core.synthesis.references.encoding import clip_pixels
from rechar_core.synthesis.references.errors import AdapterError
from rechar_core.synthesis.references.layout import Layout
from rechar_core.synthesis.references.projection import ip_adapter_of

SIZE = (64, 96)
PROMPT, NEGATIVE = "A cat in red ink style, two cranes", "text, watermark"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.pipeline()


@pytest.fixture(scope="module")
def encoder() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(3)
    sizes = {"hidden_size": 48, "projection_dim": 24, "intermediate_size": 96, "num_hidden_layers": 3}
    config = CLIPVisionConfig(**sizes, num_attention_heads=4, patch_size=16, image_size=64)
    return CLIPVisionModelWithProjection(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def control_net(pipe: Any) -> Any:
    from diffusers import ControlNetModel

    torch.manual_seed(4)
    net = ControlNetModel.from_unet(pipe.unet).eval().requires_grad_(False)
    for parameter in [*net.controlnet_down_blocks.parameters(), *net.controlnet_mid_block.parameters()]:
        parameter.normal_(0, 0.05)
    return net


@pytest.fixture(scope="module")
def states(pipe: Any) -> list[adapters.State]:
    widths = [pipe.unet.get_submodule(n).inner_dim for n in adapters.cross_attentions(pipe.unet)]
    context = pipe.unet.config.cross_attention_dim
    return [adapters.plus(widths, context), adapters.plain(widths, context)]


def picture(seed: int) -> Tensor:
    """IMAGE (1, H, W, 3), coarse and smooth."""
    rough = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(rough, SIZE, mode="bilinear").movedim(1, -1)


def drawing(**changes: Any) -> RenderJob:
    plain = RenderJob(
        fuse(None, None),
        build_prompt(PROMPT, mode="all"),
        build_prompt(NEGATIVE, mode="all"),
        SIZE,
        5,
        3,
        4.0,
    )
    return replace(plain, **changes)


def theirs(pipe: Any, kind: Any, **more: Any) -> Tensor:
    """A diffusers pipeline's picture, (H, W, 3), from the same noise."""
    made = kind(**(pipe.components | more.pop("parts", {})))
    made.set_progress_bar_config(disable=True)
    given = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 3, "guidance_scale": 4.0}
    size = {"height": SIZE[0], "width": SIZE[1], "generator": torch.Generator().manual_seed(5)}
    return torch.from_numpy(made(**(given | size | more), output_type="np").images[0])


def distance(ours: Tensor, expected: Tensor) -> float:
    assert ours.shape == (1, *expected.shape)
    return (ours[0] - expected).abs().max().item()


def test_kept_words_are_the_prompt_as_diffusers_encodes_it(pipe: Any):
    context, pooled = encode_prompt_tokens(pipe, build_prompt(PROMPT, mode="all"))
    expected, _, its_pooled, _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    assert (context - expected).abs().max() < 1e-5 and (pooled - its_pooled).abs().max() < 1e-5


def test_dropped_words_leave_the_context_and_the_pooled_embedding_stays(pipe: Any):
    words = build_prompt("A [c] in [s] style", "A cat", "A red", "two cranes")
    context, pooled = encode_prompt_tokens(pipe, words)
    whole, its_pooled = encode_prompt_tokens(pipe, [replace(w, kept=True) for w in words])
    assert torch.equal(pooled, its_pooled)
    ids = [pipe.tokenizer(w.text, add_special_tokens=False).input_ids for w in words]
    rows, at = [0], 1
    for word, tokens in zip(words, ids, strict=True):
        rows += range(at, at + len(tokens)) if word.kept else ()
        at += len(tokens)
    assert torch.equal(context, whole[:, rows]) and 1 < len(rows) < at


def test_a_long_prompt_is_not_cut(pipe: Any):
    words = build_prompt("A cat", elements=", ".join(["plum blossoms"] * 40), mode="all")
    rows = encode_prompt_tokens(pipe, words)[0].shape[1]
    assert rows > 77 and rows % 77 == 0


def test_emphasis_moves_a_word_away_from_the_empty_prompt(pipe: Any):
    """As ComfyUI does it; a failure means that (word:1.5) draws otherwise on the command line than in the graph."""
    plain, emphasised = (build_prompt(f"A {word} cat", mode="all") for word in ("red", "(red:1.5)"))
    before, after = encode_prompt_tokens(pipe, plain)[0], encode_prompt_tokens(pipe, emphasised)[0]
    empty = pipe.encode_prompt("", do_classifier_free_guidance=False)[0]
    word = slice(2, 2 + len(pipe.tokenizer("red", add_special_tokens=False).input_ids))
    moved = empty[:, word] + 1.5 * (before[:, word] - empty[:, word])
    assert (after[:, word] - moved).abs().max() < 1e-5 and (moved - before[:, word]).abs().max() > 1e-3
    others = [row for row in range(77) if not word.start <= row < word.stop]
    assert torch.equal(after[:, others], before[:, others])


def test_without_anything_it_is_diffusers_own_picture(pipe: Any):
    from diffusers import StableDiffusionXLPipeline

    ours = DiffusersRenderer(pipe).render(drawing())
    assert distance(ours, theirs(pipe, StableDiffusionXLPipeline)) < 1e-4


def test_a_fused_lora_draws_another_picture_and_leaves_no_trace(pipe: Any):
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    path = "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q"
    width = pipe.unet.get_submodule(path).in_features
    style = loras.blora({path: None}, pairs={path: loras.pair(out=width, width=width)})
    plain = DiffusersRenderer(pipe).render(drawing())
    assert (DiffusersRenderer(pipe).render(drawing(fusion=fuse(None, style))) - plain).abs().max() > 1e-3
    assert all(torch.equal(before[k], v) for k, v in pipe.unet.state_dict().items())


def test_a_controlnet_is_diffusers_own(pipe: Any, control_net: Any):
    from diffusers import StableDiffusionXLControlNetPipeline

    hint = (picture(9) > 0.5).float()
    ours = DiffusersRenderer(pipe, control_net=control_net).render(drawing(hint=hint, control=0.5))
    given = {"image": hint.movedim(-1, 1), "controlnet_conditioning_scale": 0.5}
    expected = theirs(pipe, StableDiffusionXLControlNetPipeline, parts={"controlnet": control_net}, **given)
    assert distance(ours, expected) < 1e-4
    assert (DiffusersRenderer(pipe).render(drawing()) - ours).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:The aspect ratio of the mask")
def test_the_last_official_pass_is_diffusers_own(
    pipe: Any, encoder: Any, control_net: Any, states: list[adapters.State]
):
    """Two IP-Adapters at 1.5 and 0.8 with masks, a ControlNet at 0.5 and CFG, as the published inference.py asks."""
    from diffusers import StableDiffusionXLControlNetPipeline
    from diffusers.image_processor import IPAdapterMaskProcessor

    ip_adapters = DiffusersIPAdapters(ip_adapter_of(states[0], "x"), ip_adapter_of(states[1], "y"), encoder)
    renderer = DiffusersRenderer(pipe, ip_adapters, control_net)
    pictures, hint = [picture(1), picture(2)], (picture(9) > 0.5).float()
    edges = (picture(7)[0, ..., 0] > 0.55).float()
    references = tuple(
        renderer.encode_reference(p, role, None)
        for p, role in zip(pictures, ("structure", "style"), strict=True)
    )
    ours = renderer.render(
        drawing(
            references=references,
            layout=Layout({"structure": edges}, "off", mask_mode="official"),
            scales={"structure": 1.5, "style": 0.8},
            hint=hint,
            control=0.5,
        )
    )
    pixels = [clip_pixels(p, 64) for p in pictures]
    hidden = encoder(pixels[0], output_hidden_states=True).hidden_states[-2]
    nothing = encoder(torch.zeros_like(pixels[0]), output_hidden_states=True).hidden_states[-2]
    pooled = encoder(pixels[1]).image_embeds[:, None]
    embeds = [torch.stack([nothing[0], hidden[0]])[:, None], torch.cat([torch.zeros_like(pooled), pooled])]
    masks = IPAdapterMaskProcessor().preprocess(torch.stack([edges[None], torch.ones(1, *SIZE)]), *SIZE)
    other = tiny.pipeline()  # what load_ip_adapter does to a UNet stays
    other.unet._load_ip_adapter_weights([adapters.halves(s) for s in states], low_cpu_mem_usage=False)
    for processor in other.unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [1.5, 0.8]
    expected = theirs(
        other,
        StableDiffusionXLControlNetPipeline,
        parts={"controlnet": control_net},
        image=hint.movedim(-1, 1),
        controlnet_conditioning_scale=0.5,
        ip_adapter_image_embeds=embeds,
        cross_attention_kwargs={"ip_adapter_masks": masks},
    )
    assert distance(ours, expected) < 1e-4
    assert (DiffusersRenderer(pipe).render(drawing()) - ours).abs().max() > 1e-2


def test_scale_zero_is_no_reference_and_processors_are_put_back(
    pipe: Any, encoder: Any, states: list[adapters.State]
):
    renderer = DiffusersRenderer(
        pipe, DiffusersIPAdapters(style=ip_adapter_of(states[1], "y"), encoder=encoder)
    )
    before = dict(pipe.unet.attn_processors)
    given = (renderer.encode_reference(picture(1), "style", None),)
    zero, one = (renderer.render(drawing(references=given, scales={"style": s})) for s in (0.0, 1.0))
    assert torch.equal(zero, renderer.render(drawing())) and not torch.equal(zero, one)
    assert pipe.unet.attn_processors == before


def test_adapters_that_do_not_fit_are_refused(pipe: Any, encoder: Any, states: list[adapters.State]):
    short = ip_adapter_of(adapters.plain([8] * 16, 80), "short")
    renderer = DiffusersRenderer(pipe, DiffusersIPAdapters(style=short, encoder=encoder))
    with pytest.raises(AdapterError, match="SD 1.5"):
        renderer.render(
            drawing(references=(renderer.encode_reference(picture(1), "style", None),), scales={"style": 1.0})
        )
    wide = ip_adapter_of(adapters.plain([8], 80, embedding=1024), "wide")
    with pytest.raises(AdapterError, match="CLIP-ViT-H-14"):
        DiffusersRenderer(pipe, DiffusersIPAdapters(style=wide, encoder=encoder)).encode_reference(
            picture(1), "style", None
        )
    with pytest.raises(AdapterError, match="No adapter for style"):
        DiffusersRenderer(pipe).encode_reference(picture(1), "style", None)
    for ip_adapters, message in (
        (DiffusersIPAdapters(style=short, encoder=encoder), "SD 1.5"),
        (DiffusersIPAdapters(style=wide, encoder=encoder), "CLIP-ViT-H-14"),
        (DiffusersIPAdapters(structure=ip_adapter_of(states[0], "x")), "No image encoder"),
    ):
        with pytest.raises(AdapterError, match=message):
            DiffusersRenderer(pipe, ip_adapters).check()
    DiffusersRenderer(pipe, DiffusersIPAdapters(*(ip_adapter_of(s, "x") for s in states), encoder)).check()
    with pytest.raises(RecipeError, match="shared look"):
        renderer.render(drawing(each_step=lambda latent: latent))


def test_the_encoder_sees_what_transformers_would_show_it():
    """Pillow's bicubic against PyTorch's: equal to rounding, with the same square cut out."""
    from PIL import Image
    from transformers import CLIPImageProcessor

    tall = (picture(3)[0].transpose(0, 1) * 255).round().byte()
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    theirs = processor(Image.fromarray(tall.numpy()), return_tensors="pt").pixel_values
    ours = clip_pixels(tall[None].float() / 255, 32)
    assert (ours - theirs).abs().max() < 0.06  # two levels of 255, after normalisation


@pytest.mark.parametrize("mode", ["official", "paper", "tuned", "references-only"])
def test_every_mode_runs_on_diffusers(
    pipe: Any, encoder: Any, control_net: Any, states: list[adapters.State], mode: str
):
    """Token drop, layout map and masks at a size that is not square."""
    ip_adapters = DiffusersIPAdapters(ip_adapter_of(states[0], "x"), ip_adapter_of(states[1], "y"), encoder)
    mask = torch.zeros(1, *SIZE)
    mask[:, 16:48, 24:72] = 1
    glyph = (1 - mask)[..., None].expand(-1, -1, -1, 3)
    paths = [f"up_blocks.0.attentions.{n}.transformer_blocks.0.attn1.to_q" for n in (0, 1)]
    width = pipe.unet.get_submodule(paths[0]).in_features
    blora = loras.blora(pairs={p: loras.pair(n, out=width, width=width) for n, p in enumerate(paths)})
    chosen = mode_named(mode, 2, 2.0)
    given = {"elements": "two cranes", "structure": blora, "style": blora, "style_image": picture(2)}
    result, structure, style = Passes(
        DiffusersRenderer(pipe, ip_adapters, control_net), glyph, mask, chosen, 1, **given
    ).run()
    assert result.shape == (1, *SIZE, 3) and result.std() > 0.01
    drawn = not torch.equal(structure, glyph), not torch.equal(style, picture(2))
    assert drawn == (chosen.renders_references, chosen.renders_references)


class Counted(tuple):
    """Matrices of an adapter that are counted when they are used."""

    used = 0

    def __getitem__(self, index: Any) -> Any:
        Counted.used += 1
        return super().__getitem__(index)


def test_what_pictures_have_in_common_is_encoded_once(
    pipe: Any, encoder: Any, states: list[adapters.State], monkeypatch: pytest.MonkeyPatch
):
    """Pictures of three seeds share their references and the negative prompt."""
    counted = []
    for state in states:
        plain = ip_adapter_of(state, "x")
        counted.append(replace(plain, keys=Counted(plain.keys), values=Counted(plain.values)))
    mask = torch.zeros(1, *SIZE)
    mask[:, 16:48, 24:72] = 1
    glyph, style = (1 - mask)[..., None].expand(-1, -1, -1, 3), picture(2)
    prompts, seen, Counted.used = [], [], 0
    monkeypatch.setattr(
        "rechar_core.backend.renderer.encode_prompt_tokens",
        lambda *given: prompts.append(given[1]) or encode_prompt_tokens(*given),
    )
    hook = encoder.register_forward_hook(lambda *_: seen.append(1))
    renderer = DiffusersRenderer(pipe, DiffusersIPAdapters(*counted, encoder))
    chosen, pictures = mode_named("references-only", 2, 2.0), []
    for seed in (1, 2, 3):
        passes = Passes(renderer, glyph, mask, chosen, seed, elements="two cranes", style_image=style)
        pictures.append(passes.run()[0])
    hook.remove()
    assert not torch.equal(pictures[0], pictures[1])
    assert len(prompts) == len(set(prompts)) == 2
    assert len(seen) == 3  # the structure's and the style's picture, and grey for the resampler
    assert Counted.used == 2 * 2 * len(counted[0].keys)
    given = {"elements": "two cranes", "style_image": style}
    alone = Passes(
        DiffusersRenderer(pipe, DiffusersIPAdapters(*counted, encoder)), glyph, mask, chosen, 3, **given
    )
    assert torch.equal(alone.run()[0], pictures[2])
    renderer.encode_reference(picture(5), "style", None)
    assert not torch.equal(
        renderer.encode_reference(style, "style", None).conditional,
        renderer.encode_reference(picture(5), "style", None).conditional,
    )


def test_three_passes_encode_their_negative_prompt_once(pipe: Any, monkeypatch: pytest.MonkeyPatch):
    prompts = []
    monkeypatch.setattr(
        "rechar_core.backend.renderer.encode_prompt_tokens",
        lambda *given: prompts.append(given[1]) or encode_prompt_tokens(*given),
    )
    mask = torch.zeros(1, *SIZE)
    mask[:, 16:48, 24:72] = 1
    paths = [f"up_blocks.0.attentions.{n}.transformer_blocks.0.attn1.to_q" for n in (0, 1)]
    width = pipe.unet.get_submodule(paths[0]).in_features
    blora = loras.blora(pairs={p: loras.pair(n, out=width, width=width) for n, p in enumerate(paths)})
    glyph = (1 - mask)[..., None].expand(-1, -1, -1, 3)
    more = {"structure": blora, "style": blora, "style_image": picture(2)}
    Passes(DiffusersRenderer(pipe), glyph, mask, mode_named("tuned", 2, 2.0), 1, **more).run()
    assert len(prompts) == 4 and len(set(prompts)) == 4  # three of their own and the negative one


def test_half_precision_draws_almost_the_same(encoder: Any, control_net: Any, states: list[adapters.State]):
    """What a GPU does (fp16 everywhere but in the VAE), here in bf16, which a CPU can compute."""
    from copy import deepcopy

    from rechar_core.backend.pipeline import load

    drawn = []
    for dtype in (torch.float32, torch.bfloat16):
        half = load(str(tiny.MODEL), dtype, torch.device("cpu"))
        ip_adapters = DiffusersIPAdapters(
            ip_adapter_of(states[0], "x"), ip_adapter_of(states[1], "y"), deepcopy(encoder).to(dtype)
        )
        renderer = DiffusersRenderer(half, ip_adapters, deepcopy(control_net).to(dtype))
        given = tuple(
            renderer.encode_reference(picture(n), role, None) for n, role in enumerate(("structure", "style"))
        )
        layout = Layout(
            {"structure": (picture(7)[0, ..., 0] > 0.5).float()}, "gated_softmax", mask_mode="fill"
        )
        scales = {"structure": 0.5, "style": 0.5}
        hint = (picture(9) > 0.5).float()
        more = {"references": given, "layout": layout, "scales": scales, "hint": hint, "control": 0.5}
        drawn.append(renderer.render(drawing(**more)))
    assert drawn[1].dtype == torch.float32
    assert (drawn[0] - drawn[1]).abs().mean() < 0.03 < drawn[0].std()
