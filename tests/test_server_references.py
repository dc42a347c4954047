"""Reference, structure-map and score nodes inside a real ComfyUI server, with random adapters for the demo model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adapters
import numpy as np
import pytest
from graphs import MODEL, SIDE, demo, draw, fuse, glyph, node, show, train
from safetensors.torch import save_file
from server import PACK, Server, base_directory, find_host
from test_host_references import VISION

from rechar_core.demo import build
from rechar_core.glyph.structure_map import canny
from rechar_core.synthesis.modes import MODES

pytestmark = pytest.mark.host

# An encoder as small as the demo model: the host's own loader knows full-size encoders alone.
TINY_VISION = """
import pathlib
import torch
import comfy.clip_vision
import comfy.utils

# Newer hosts send a step only every 0.1 s; the tests want to see every step that a node reports.
comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL = comfy.utils.PROGRESS_THROTTLE_MIN_PERCENT = 0

class TinyVision:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP_VISION",), "load", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        encoder = comfy.clip_vision.ClipVisionModel(str(pathlib.Path(__file__).with_name("tiny_vision.json")))
        draw = torch.Generator().manual_seed(0)
        state = {k: torch.randn(t.shape, generator=draw) * 0.2 for k, t in encoder.get_sd().items()}
        encoder.load_sd(state)
        return (encoder,)

class TinyControl:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONTROL_NET",), "load", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def load(self, model):
        import comfy.cldm.cldm, comfy.controlnet, comfy.ops
        config = {**model.model.model_config.unet_config, "hint_channels": 3, "dtype": torch.float32}
        for unused in ("out_channels", "transformer_depth_output"):
            config.pop(unused)
        net = comfy.cldm.cldm.ControlNet(**config, operations=comfy.ops.disable_weight_init)
        draw = torch.Generator().manual_seed(0)
        net.load_state_dict({k: torch.randn(t.shape, generator=draw) * 0.05 for k, t in net.state_dict().items()})
        return (comfy.controlnet.ControlNet(net, load_device=model.load_device),)

class TinyPatch:
    # another pack's cross-attention patches: its own attention in one block, or changed queries in all

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "what": (["attention", "queries"],)}}

    def patch(self, model, what):
        from comfy.ldm.modules.attention import optimized_attention
        patched = model.clone()
        if what == "attention":
            attend = lambda q, k, v, options: 2 * optimized_attention(q, k, v, options["n_heads"])
            patched.set_model_attn2_replace(attend, "output", 1)
        else:
            patched.set_model_attn2_patch(lambda q, k, v, options: (3 * q, k, v))
        return (patched,)

NODE_CLASS_MAPPINGS = {"TinyVision": TinyVision, "TinyControl": TinyControl, "TinyPatch": TinyPatch}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own: with adapter files and a tiny encoder."""
    base = base_directory(tmp_path_factory.mktemp("references"))
    (base / "custom_nodes" / "tiny_vision.py").write_text(TINY_VISION, encoding="utf-8")
    (base / "custom_nodes" / "tiny_vision.json").write_text(json.dumps(VISION), encoding="utf-8")
    write_adapters(base / "models" / "ipadapter")
    adapters.stock(base / "custom_nodes" / PACK, base / "models")
    with Server(find_host(), base) as running:
        yield running


def write_adapters(folder: Path) -> None:
    folder.mkdir()
    unet = build.build_unet()
    widths = [unet.get_submodule(name).inner_dim for name in adapters.cross_attentions(unet)]
    context = unet.config.cross_attention_dim
    save_file(adapters.plus(widths, context), folder / "plus.safetensors")
    save_file(adapters.plain(widths, context), folder / "plain.safetensors")
    save_file(adapters.plain(widths, context, embedding=1280), folder / "bigg.safetensors")
    save_file(adapters.plain(widths[:16], context), folder / "short.safetensors")
    (folder / "pickled.bin").write_bytes(b"\x80\x02")


def loaded(composition: str = "plus.safetensors", style: str = "plain.safetensors") -> dict[str, Any]:
    files = {"composition": composition, "style_adapter": style}
    return {
        "vision": node("TinyVision"),
        "adapters": node("ReCharLoadAdapters", **files, clip_vision=["vision", 0]),
    }


def encoded(role: str, image: str = "glyph", **more: Any) -> dict[str, Any]:
    given = {"role": role, "uncond": "diffusers", "weight": 1.0, **more}
    return node("ReCharEncodeReference", adapters=["adapters", 0], image=[image, 0], **given)


def applied(structure: float = 1.5, style: float = 0.8, **more: Any) -> dict[str, Any]:
    scales = {"structure_scale": structure, "style_scale": style}
    part = {"start": 0.0, "end": 1.0, "block_weights": ""}
    return node("ReCharApplyReferences", model=MODEL, references=["style", 0], **scales, **(part | more))


def layout(operator: str) -> dict[str, Any]:
    choice = {"operator": operator, "temperature": 0.5, "mask_mode": "fill"}
    return node("ReCharLayout", structure_mask=["glyph", 1], **choice)


def references() -> dict[str, Any]:
    return {
        **loaded(),
        "structure": encoded("structure", keep_mask=["glyph", 1]),
        "other": {**glyph("S")},
        "style": encoded("style", "other", previous=["structure", 0]),
    }


def mapped(kind: str, **source: Any) -> dict[str, Any]:
    made = node("ReCharStructureMap", **source)
    made["inputs"]["kind"] = kind
    return made


def done(made: Any) -> Any:
    assert not made.error, made.error
    return made


def test_references_move_the_picture_and_zero_is_bit_identical_to_none(host: Server):
    """Both roles, every operator of the layout, each a picture of its own; scale 0 is off."""
    ways = {
        "zero": applied(0.0, 0.0),
        "both": applied(),
        "structure_only": applied(style=0.0),
        "style_only": applied(structure=0.0),
        "never": applied(block_weights="*: 0"),
        "block": applied(block_weights="style: 3, *: 0"),
        **{f"laid_{r}": applied(layout=[f"layout_{r}", 0]) for r in ("off", "softmax", "gated_softmax")},
    }
    nodes = references() | {f"layout_{r}": layout(r) for r in ("off", "softmax", "gated_softmax")}
    nodes |= {f"apply_{name}": way for name, way in ways.items()}
    nodes |= {"seen": node("SaveImage", images=["layout_gated_softmax", 1], filename_prefix="rechar_test")}
    for name in ways:
        nodes |= draw([f"apply_{name}", 0], name)
    made = done(host.run(demo(**nodes, **draw(MODEL, "plain"))))
    assert np.array_equal(made.images["plain"], made.images["zero"])
    assert np.array_equal(made.images["plain"], made.images["never"])
    different = ["plain", *(name for name in ways if name not in ("zero", "never"))]
    pairs = itertools.combinations(different, 2)
    assert [p for p in pairs if np.array_equal(made.images[p[0]], made.images[p[1]])] == []
    assert made.images["seen"].std() > 20


def test_references_go_with_other_cross_attention_patches(host: Server):
    """On the same layers, before and after ours. A failure means that one of the two is lost: the picture is then that
    with the other alone."""
    nodes, pictures = references() | {"ours": applied()}, {"ours": ["ours", 0]}
    for kind in ("attention", "queries"):
        nodes[f"{kind}_alone"] = node("TinyPatch", model=MODEL, what=kind)
        nodes[f"{kind}_before"] = applied()
        nodes[f"{kind}_before"]["inputs"]["model"] = [f"{kind}_alone", 0]
        pictures |= {f"{kind}_{when}": [f"{kind}_{when}", 0] for when in ("alone", "before")}
    nodes["queries_after"] = node("TinyPatch", model=["ours", 0], what="queries")
    pictures["queries_after"] = ["queries_after", 0]
    for name, wire in pictures.items():
        nodes |= draw(wire, f"drawn_{name}")
    made = done(host.run(demo(**nodes)))
    drawn = {name: made.images[f"drawn_{name}"] for name in pictures}
    assert np.array_equal(drawn.pop("queries_after"), drawn["queries_before"])
    pairs = itertools.combinations(drawn, 2)
    assert [p for p in pairs if np.array_equal(drawn[p[0]], drawn[p[1]])] == []


def guided(kind: str, **wires: Any) -> dict[str, Any]:
    """What a custom sampler with a guider of the host draws, saved as node `kind`."""
    prompts = {name: node("CLIPTextEncode", clip=["demo", 1], text=name) for name in ("wood", "ink")}
    return {
        **prompts,
        "empty": node("CLIPTextEncode", clip=["demo", 1], text=""),
        "noise": node("RandomNoise", noise_seed=1),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=MODEL, scheduler="normal", steps=2, denoise=1.0),
        "size": node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1),
        "guider": node(kind, positive=["wood", 0], negative=["ink", 0], **wires),
        "drawn": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["sampler", 0],
            sigmas=["sigmas", 0],
            latent_image=["size", 0],
        ),
        "decoded": node("VAEDecode", samples=["drawn", 0], vae=["demo", 2]),
        "picture": node("SaveImage", images=["decoded", 0], filename_prefix="rechar_test"),
    }


def test_perp_neg_takes_references(host: Server):
    """Its third prompt is numbered 2. A failure means an IndexError in the middle of sampling."""
    drawn = []
    for scale in (0.0, 0.8):
        wires = {"model": ["apply", 0], "empty_conditioning": ["empty", 0], "cfg": 3.0, "neg_scale": 1.0}
        nodes = references() | {"apply": applied(1.5 * scale, scale)} | guided("PerpNegGuider", **wires)
        drawn.append(done(host.run(demo(**nodes))).images["picture"])
    assert not np.array_equal(*drawn)


def steps_of(made: Any, name: str) -> list[tuple[int, int]]:
    return [
        (e.data["value"], e.data["max"])
        for e in made.events
        if e.kind == "progress" and e.data["node"] == name
    ]


def test_every_step_and_picture_shows_progress(host: Server):
    """Steps of a pass, pictures that are scored. A failure means a bar that stands still for minutes."""
    whole = pipeline("references-only", adapters=["adapters", 0], style_image=["glyph", 0])
    both = node("ImageBatch", image1=["glyph", 0], image2=["glyph", 0])
    judged = {"images": ["both", 0], "glyph_mask": ["glyph", 1]}
    nodes = {
        "whole": {**whole, "inputs": {**whole["inputs"], "steps": 3, "glyph": ["both", 0]}},
        "both": both,
        "score": node("ReCharScore", **judged),
        "best": node("ReCharBestOf", **judged, rank_by="structure", count=1),
        "settings": show(["whole", 3]),
        "scores": show(["score", 0]),
        "ranks": show(["best", 1]),
    }
    made = done(host.run(demo(**loaded(), **nodes)))
    assert [step for step in steps_of(made, "whole") if step[1] == 9] == [(7, 9), (8, 9), (9, 9)]
    assert steps_of(made, "score") == steps_of(made, "best") == [(1, 2), (2, 2)]
    assert json.loads(made.text("settings"))["glyph"] == "the first of 2"


def test_a_pass_can_be_stopped_between_its_steps(host: Server):
    def stop(event: Any) -> None:
        if event.kind == "progress" and event.data["node"] == "whole" and event.data["max"] == 3000:
            host.client.stop()

    whole = pipeline("references-only", adapters=["adapters", 0], style_image=["glyph", 0])
    whole["inputs"]["steps"] = 1000
    made = host.run(demo(**loaded(), whole=whole, text=show(["whole", 3])), stop)
    assert "stopped by a user" in made.error and len(steps_of(made, "whole")) < 100


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (loaded(style="bigg.safetensors"), "load CLIP-ViT-bigG-14"),
        (loaded("none") | {"style": encoded("structure")}, "No adapter for structure references"),
        (loaded() | {"style": encoded("style", keep_mask=["glyph", 1])}, "no part can be dropped"),
        (loaded(style="short.safetensors") | {"style": encoded("style")}, "this is an SD 1.5 adapter"),
        (loaded() | {"style": encoded("style")}, "write BLOCK: NUMBER"),
    ],
    ids=["encoder", "none", "mask", "layers", "weights"],
)
def test_errors_reach_the_user(host: Server, nodes: dict[str, Any], message: str):
    text = "sky: 1" if "write" in message else ""
    wanted = nodes if "style" in nodes else nodes | {"style": encoded("style")}
    made = host.run(demo(**wanted, apply=applied(block_weights=text), **draw(["apply", 0])))
    assert message in made.error


PIPELINE = {
    "model": MODEL,
    "clip": ["demo", 1],
    "vae": ["demo", 2],
    "glyph": ["glyph", 0],
    "glyph_mask": ["glyph", 1],
}


def pipeline(mode: str, **wires: Any) -> dict[str, Any]:
    """The whole pipeline in two steps a pass."""
    settings = {"pipeline_mode": mode, "elements": "wood", "seed": 1, "steps": 2}
    return node("ReCharPipeline", **PIPELINE, **settings, **wires)


def test_all_modes_of_the_pipeline_run(host: Server):
    """With B-LoRAs, adapters and a style picture; each mode draws another picture and says how."""
    wires = {"structure": ["train", 0], "style": ["train", 1], "adapters": ["adapters", 0]}
    modes = ("official", "paper", "tuned", "references-only")
    nodes = loaded() | {"other": glyph("S"), "train": train()}
    for mode in modes:
        nodes[mode] = pipeline(mode, style_image=["other", 0], **wires)
        nodes[f"{mode}_text"] = show([mode, 3])
        for number, name in enumerate(("image", "structure", "style")):
            nodes[f"{mode}_{name}"] = node("SaveImage", images=[mode, number], filename_prefix="rechar_test")
    nodes |= {"given": node("SaveImage", images=["glyph", 0], filename_prefix="rechar_test")}
    made = done(host.run(demo(**nodes)))
    for one, two in itertools.combinations(modes, 2):
        assert not np.array_equal(made.images[f"{one}_image"], made.images[f"{two}_image"])
    settings = json.loads(made.text("official_text"))
    assert (settings["name"], settings["steps"], settings["elements"]) == ("official", 2, "wood")
    assert np.array_equal(made.images["references-only_structure"], made.images["given"])
    assert not np.array_equal(made.images["official_structure"], made.images["given"])


def test_the_pipeline_is_the_single_nodes_in_a_row(host: Server):
    """References only, drawn by hand: the same picture, bit for bit."""
    mode = MODES["references-only"]
    chosen = {"operator": mode.operator, "temperature": mode.temperature, "mask_mode": mode.mask_mode}
    words = {"template": "A [c] in [s] style", "structure_trigger": "A [v]", "style_trigger": "A [v]"}
    prompt = node(
        "ReCharElementPrompt", clip=["demo", 1], **words, elements="wood", keep=mode.keep, element_weight=1.0
    )
    nodes = references() | {
        "layout": node("ReCharLayout", structure_mask=["glyph", 1], **chosen),
        "apply": applied(mode.structure_scale, mode.style_scale, layout=["layout", 0]),
        "prompt": prompt,
        **draw(["apply", 0], "by_hand", ["prompt", 0]),
        "whole": pipeline("references-only", adapters=["adapters", 0], style_image=["other", 0]),
        "at_once": node("SaveImage", images=["whole", 0], filename_prefix="rechar_test"),
    }
    words = {"template": mode.negative, "structure_trigger": "", "style_trigger": ""}
    nodes["by_hand_empty"] = node(
        "ReCharElementPrompt", clip=["demo", 1], **words, elements="", keep="all", element_weight=1.0
    )
    nodes["by_hand_sampler"]["inputs"] |= {"seed": 3, "cfg": mode.cfg[2]}  # the third pass
    made = done(host.run(demo(**nodes)))
    assert np.array_equal(made.images["by_hand"], made.images["at_once"])


def test_the_pipelines_controlnet_is_the_hosts_own(host: Server):
    """The same picture as Structure Map and Apply ControlNet give, and another one than without."""
    mode = MODES["tuned"]
    words = {"structure_trigger": "[v]", "style_trigger": "[v]", "keep": "all", "element_weight": 1.0}
    wires = {"control_net": ["control", 0], "style": ["train", 1], "structure": ["train", 0]}
    nodes = {
        "train": train(),
        "fused": fuse(["train", 0], ["train", 1]),
        "control": node("TinyControl", model=MODEL),
        "edges": mapped("canny-cv2", image=["glyph", 0]),
        "prompt": node(
            "ReCharElementPrompt", clip=["demo", 1], template="A [c] in [s] style", elements="wood", **words
        ),
        "negative": node(
            "ReCharElementPrompt", clip=["demo", 1], template=mode.negative, elements="", **words
        ),
        "controlled": node(
            "ControlNetApplyAdvanced",
            positive=["prompt", 0],
            negative=["negative", 0],
            control_net=["control", 0],
            image=["edges", 0],
            strength=mode.control[2],
            start_percent=0.0,
            end_percent=1.0,
        ),
        **draw(["fused", 0], "by_hand", ["controlled", 0]),
        "whole": pipeline("tuned", **wires),
        "without": pipeline("tuned", structure=["train", 0], style=["train", 1]),
    }
    for name in ("whole", "without"):
        nodes[f"{name}_image"] = node("SaveImage", images=[name, 0], filename_prefix="rechar_test")
    nodes["by_hand_sampler"]["inputs"] |= {"seed": 3, "cfg": mode.cfg[2], "negative": ["controlled", 1]}
    made = done(host.run(demo(**nodes)))
    assert np.array_equal(made.images["by_hand"], made.images["whole_image"])
    assert not np.array_equal(made.images["whole_image"], made.images["without_image"])


@pytest.mark.parametrize(
    ("mode", "message", "wires"),
    [
        ("tuned", "There is no style", {}),
        ("references-only", "needs adapters", {"style_image": ["glyph", 0]}),
        ("tuned", "Nothing carries the glyph", {"style_image": ["glyph", 0]}),
    ],
)
def test_the_pipeline_says_what_it_lacks(host: Server, mode: str, message: str, wires: dict[str, Any]):
    whole = pipeline(mode, **wires)
    made = host.run(demo(whole=whole, text=show(["whole", 3])))
    assert message in made.error


def test_an_adapter_that_does_not_fit_is_found_before_the_first_pass(host: Server):
    """Where the structure picture would be drawn first. A failure means that it is found after two passes."""
    wires = {"structure": ["train", 0], "style": ["train", 1], "adapters": ["adapters", 0]}
    nodes = loaded(style="short.safetensors") | {"train": train(), "whole": pipeline("official", **wires)}
    made = host.run(demo(**nodes, text=show(["whole", 3])))
    assert "this is an SD 1.5 adapter" in made.error and not steps_of(made, "whole")


def test_only_safe_adapter_files_are_offered(host: Server):
    (_, options), *_ = host.object_info()["ReCharLoadAdapters"]["input"]["required"].values()
    assert options["options"] == [
        "none",
        *sorted(f"{n}.safetensors" for n in ("bigg", "plain", "plus", "short")),
        "ip_plus_composition_sdxl.safetensors",
        "ip-adapter_sdxl_vit-h.safetensors",
    ]


def test_a_published_adapter_that_is_not_there_is_named_with_its_folder(host: Server):
    nodes = loaded(style="ip-adapter_sdxl_vit-h.safetensors") | {"style": encoded("style")}
    made = host.run(demo(**nodes, apply=applied(), **draw(["apply", 0])))
    folder = host.base / "models" / "ipadapter"
    assert f"There is no adapter 'ip-adapter_sdxl_vit-h.safetensors' in {folder}" in made.error


def test_the_demo_models_own_references_lead_all_modes(host: Server):
    """Trained files where they ship, random ones where they do not; a missing one is named with its folder."""
    nodes: dict[str, Any] = {"refs": node("ReCharDemoReferences"), "other": glyph("S")}
    for mode in MODES:
        wires = {"adapters": ["refs", 0], "control_net": ["refs", 1], "style_image": ["other", 0]}
        nodes[mode] = pipeline(mode, **wires)
        nodes[f"{mode}_image"] = node("SaveImage", images=[mode, 0], filename_prefix="rechar_test")
    for name in ("controlnet", "adapters"):
        path = host.base / "custom_nodes" / PACK / "rechar_core" / "demo" / f"{name}.safetensors"
        away = path.rename(path.with_suffix(".away"))
        made = host.run(demo(**nodes))
        away.rename(path)
        assert str(path) in made.error
    made = done(host.run(demo(**nodes)))
    official, paper, tuned, only = (made.images[f"{mode}_image"] for mode in MODES)
    assert not any(np.array_equal(x, y) for x, y in itertools.combinations((official, paper, tuned), 2))
    assert np.array_equal(tuned, only)  # without B-LoRAs there is nothing else to draw with


def test_a_structure_map_is_drawn_from_mask_and_picture(host: Server):
    kinds = ("canny-cv2", "skeleton", "distance", "fill")
    nodes = {k: mapped(k, glyph_mask=["glyph", 1]) for k in kinds}
    pixels = np.kron(
        np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8), np.ones((8, 8, 1), np.uint8)
    )
    nodes["picture"] = node("LoadImage", image=host.upload("canny.png", pixels))
    nodes["of_picture"] = mapped("canny-cv2", image=["picture", 0])
    saved = {
        f"{k}_image": node("SaveImage", images=[k, 0], filename_prefix="rechar_test")
        for k in (*kinds, "of_picture")
    }
    made = done(host.run(demo(**nodes, **saved)))
    assert all(made.images[f"{k}_image"].max() == 255 for k in kinds)
    assert np.array_equal(made.images["of_picture_image"][0, ..., 0], canny(pixels) * 255)


def test_scores_and_the_best_of_a_batch(host: Server):
    """The glyph itself wins over another, and the JSON says by how much."""
    both = node("ImageBatch", image1=["other", 0], image2=["glyph", 0])
    given = {"images": ["both", 0], "glyph_mask": ["glyph", 1], "style_image": ["other", 0]}
    nodes = {
        "other": glyph("梅"),
        "both": both,
        "score": node("ReCharScore", **given),
        "best": node("ReCharBestOf", **given, rank_by="structure", count=1),
        "json": show(["score", 0]),
        "ranks": show(["best", 1]),
        "chart": node("SaveImage", images=["score", 1], filename_prefix="rechar_test"),
        "kept": node("SaveImage", images=["best", 0], filename_prefix="rechar_test"),
        "wanted": node("SaveImage", images=["glyph", 0], filename_prefix="rechar_test"),
    }
    made = done(host.run(demo(**nodes)))
    found = json.loads(made.text("json"))
    assert found["pictures"][1]["iou"] > 0.95 > 0.6 > found["pictures"][0]["iou"]
    assert found["controls"]["blank"]["iou"] == 0 and 0 < found["leak"] < 0.6
    assert json.loads(made.text("ranks"))["best_first"] == [1, 0]
    assert np.array_equal(made.images["kept"], made.images["wanted"])
    assert made.images["chart"].shape[1] > 500
