"""Load, train, fuse, save, inspect and prompt inside a real ComfyUI server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import torch
from graphs import SIDE, demo, draw, fuse, node, show, train
from safetensors.torch import load_file, save_file
from server import Server

from rechar_core.lora import files
from rechar_core.lora.blora import BLora, LoraPair

pytestmark = pytest.mark.host

BOTH = (["train", 0], ["train", 1])


def done(made: Any) -> Any:
    assert not made.error, made.error
    return made


@pytest.fixture(scope="module")
def saved(comfy: Server) -> dict[str, str]:
    """The names of a structure and a style LoRA, trained and saved by a workflow."""
    save = node("ReCharSaveBLoRA", name="test/羅", structure=BOTH[0], style=BOTH[1], thumbnail=["glyph", 0])
    made = done(comfy.run(demo(train=train(), save=save)))
    return dict(zip(("structure", "style"), made.outputs["save"]["text"], strict=True))


def lora_file(comfy: Server, name: str) -> Path:
    return comfy.base / "models" / "loras" / name


def test_saved_files_say_what_they_are(comfy: Server, saved: dict[str, str]):
    assert {part: Path(name).as_posix() for part, name in saved.items()} == {
        "structure": "test/羅_structure.safetensors",
        "style": "test/羅_style.safetensors",
    }
    for part, name in saved.items():
        blora = files.read(lora_file(comfy, name))
        assert [b.name for b in blora.blocks] == [part]
        assert (blora.trigger, blora.ranks, blora.recipe["steps"]) == ("A [v]", (4,), 3)
        assert blora.metadata["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
        assert (
            saved[part]
            in comfy.object_info()[f"ReCharLoad{part.title()}LoRA"]["input"]["required"]["file"][1]["options"]
        )


def test_alpha_moves_the_picture_and_zero_is_bit_identical_to_none(comfy: Server):
    """A failure means that alpha does nothing, or that 0 is not off."""
    alphas = {
        "zero": (0.0, 0.0),
        "structure": (1.0, 0.0),
        "style": (0.0, 1.0),
        "both": (1.0, 1.0),
        "half": (0.5, 0.5),
    }
    nodes = {f"fuse_{k}": fuse(*BOTH, *a) for k, a in alphas.items()}
    for k in alphas:
        nodes |= draw([f"fuse_{k}", 0], k)
    made = done(comfy.run(demo(train=train(), **nodes, **draw(graphs.MODEL, "plain"))))
    assert np.array_equal(made.images["plain"], made.images["zero"])
    drawn = [made.images[k] for k in ("plain", "structure", "style", "both", "half")]
    for i, picture in enumerate(drawn):
        assert not any(np.array_equal(picture, other) for other in drawn[:i])


def test_training_leaves_the_model_as_it_was(comfy: Server):
    """A failure means that a trained-on checkpoint draws differently afterwards."""
    before = done(comfy.run(demo(**draw(graphs.MODEL)))).images["save"]
    done(comfy.run(demo(train=train(seed=11), x=fuse(*BOTH), **draw(["x", 0]))))
    workflow = demo(**draw(graphs.MODEL))
    workflow["save_sampler"]["inputs"]["denoise"] = 0.999999  # another input, so that it is sampled again
    after = done(comfy.run(workflow))
    assert "save_sampler" in after.executed()
    assert np.array_equal(before, after.images["save"])


def progress_of(made: Any) -> list[dict[str, Any]]:
    """What the node's progress bar was sent: first the set-up, then each step of the training."""
    return [e.data for e in made.events if e.kind == "progress" and e.data["node"] == "train"]


def training(event: dict[str, Any], steps: int, value: int | None = None) -> bool:
    """Whether it is of the bar of a training of `steps` steps, and at step `value`."""
    return event["max"] == steps and value in (None, event["value"])


def test_training_shows_progress_and_previews(comfy: Server):
    made = done(comfy.run(demo(train=train(seed=21), report=show(["train", 3]))))
    assert [e["value"] for e in progress_of(made)][-3:] == [1, 2, 3]
    assert len(made.previews()) == 3
    assert len(json.loads(made.text("report").replace("'", '"'))["loss"]) == 3


def test_an_unchanged_job_is_never_trained_twice(comfy: Server):
    """The host's own cache forgets when another workflow is queued in between; ours on disk does not."""
    workflow = demo(train=train(seed=31), loss=show(["train", 3]))
    first = done(comfy.run(workflow))
    done(comfy.run(demo(**draw(graphs.MODEL))))
    second = done(comfy.run(workflow))
    assert first.previews()
    assert "train" in second.executed()
    assert not second.previews()
    assert first.text("loss") == second.text("loss")


def test_a_damaged_copy_of_a_training_is_made_anew(comfy: Server):
    """A failure means that a full disk or a crash spoils a job for ever."""
    workflow = demo(train=train(seed=35), loss=show(["train", 3]))
    first = done(comfy.run(workflow))
    folder = comfy.base / "user" / "rechar" / "trainings"
    newest = max(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:-100])
    done(comfy.run(demo(**draw(graphs.MODEL))))
    assert done(comfy.run(workflow)).text("loss") == first.text("loss")
    assert "It is trained anew." in comfy.log()


def test_a_cancelled_training_goes_on_to_the_same_result(comfy: Server):
    """A failure means that cancelling loses work, breaks the server, or changes what is learnt."""

    def stop(event: Any) -> None:
        if event.kind == "progress" and event.data["node"] == "train" and training(event.data, 9, 4):
            comfy.client.stop()

    cancelled = demo(train=train(seed=41, steps=9), loss=show(["train", 3]))
    assert "stopped by a user" in comfy.run(cancelled, stop).error
    resumed = done(comfy.run(cancelled))
    steps = [e["value"] for e in progress_of(resumed) if training(e, 9)]
    assert steps[0] > 3 and steps[-1] == 9
    shutil.rmtree(comfy.base / "user" / "rechar")
    again = demo(train=train(seed=41, steps=9, memory="normal"), loss=show(["train", 3]))
    # another memory mode groups its steps in another way: equal up to rounding (bit-equality: tests/test_training.py)
    straight = json.loads(done(comfy.run(again)).text("loss"))["loss"]
    assert straight == pytest.approx(json.loads(resumed.text("loss"))["loss"], abs=1e-4)


def test_recipes_bring_their_own_stages_and_steps(comfy: Server):
    """A failure means that the recipe input does nothing, or that it overrules what the user set."""
    nodes: dict[str, Any] = {}
    wished = {"b-lora": 3, "consislora": 6, "consislora-style": 3, "quick": 2}
    for recipe, steps in wished.items():
        nodes[recipe] = train(seed=61, recipe=recipe, steps=steps, learning_rate=0.0, rank=2)
        nodes[f"loss {recipe}"] = show([recipe, 3])
    nodes["save"] = node("ReCharSaveBLoRA", name="recipe", structure=["consislora", 0])
    made = done(comfy.run(demo(**nodes)))
    for recipe, steps in wished.items():
        assert len(json.loads(made.text(f"loss {recipe}"))["loss"]) == steps
    (saved,) = made.outputs["save"]["text"]
    held = files.read(lora_file(comfy, saved)).recipe
    # 6 of 1500 steps: the first stage keeps its third
    assert (held["loss"], held["prediction_steps"], held["learning_rate"]) == ("x0", 2, 1e-4)


def test_several_pictures_of_one_style_are_one_training(comfy: Server):
    """A failure means that only the first picture of a batch is learnt."""
    nodes: dict[str, Any] = {"other": graphs.glyph("木")}
    for name, second in (("one", "glyph"), ("two", "other")):
        nodes[f"batch {name}"] = node("ImageBatch", image1=["glyph", 0], image2=[second, 0])
        nodes[name] = train(f"batch {name}", seed=65, steps=4, target="style")
        nodes[f"loss {name}"] = show([name, 3])
    nodes["alone"] = train(seed=65, steps=4, target="style")
    made = done(comfy.run(demo(**nodes, **{"loss alone": show(["alone", 3])})))
    losses = {n: json.loads(made.text(f"loss {n}"))["loss"] for n in ("one", "two", "alone")}
    assert losses["one"] == losses["alone"]
    # each picture once in two steps: two of the four losses are the other picture's
    assert sum(a != b for a, b in zip(losses["one"], losses["two"], strict=True)) >= 2


def test_several_trials_are_drawn_and_one_is_chosen(comfy: Server):
    """A failure means that a trial is not the LoRA of its seed, or that choosing trains again."""

    def workflow(choose: int) -> Any:
        many = train(seed=71, steps=4, trials=2, choose=choose)
        sheet = node("PreviewImage", images=["many", 4])
        return demo(many=many, loss=show(["many", 3]), sheet=sheet)

    first, second = done(comfy.run(workflow(1))), done(comfy.run(workflow(2)))
    assert first.images["sheet"].shape[2] > 2 * SIDE
    assert first.text("loss") != second.text("loss")
    bars = [
        [e.data["max"] for e in m.events if e.data.get("node") == "many" and e.kind == "progress"]
        for m in (first, second)
    ]
    assert bars[0].count(4) == 4 and 4 not in bars[1]  # four steps of training; then the pictures alone
    for bar in bars:  # each picture is told at its 20 sampler steps and when it is there
        assert bar.count(2 * 20) > 2 and bar[-1] == 2
    alone = done(comfy.run(demo(train=train(seed=71, steps=4), loss=show(["train", 3]))))
    assert alone.text("loss") == first.text("loss")
    assert not alone.previews()


def test_trials_of_one_block_are_drawn_with_it_alone(comfy: Server):
    """A failure means that the sheet asks for a block that was not trained, when all the training is done."""
    many = train(seed=75, steps=2, trials=2, target="style")
    made = done(comfy.run(demo(many=many, sheet=node("PreviewImage", images=["many", 4]))))
    assert made.images["sheet"].shape[2] > 2 * SIDE


def test_a_choice_that_is_not_there_is_refused_before_training(comfy: Server):
    made = comfy.run(demo(many=train(seed=76, trials=2, choose=3), loss=show(["many", 3])))
    assert "choose is 3, but trials is 2" in made.error
    assert not any(e.kind == "progress" and e.data["node"] == "many" for e in made.events)


def test_the_lowest_memory_learns_the_same_and_leaves_the_model_as_it_was(comfy: Server):
    """A failure means that loading the UNet past the host's list of models loses a patch, or leaves one behind."""
    patched = {"structure": train(seed=77), "patched": fuse(["structure", 0])}
    runs: dict[str, Any] = {}
    for name, memory in (("whole", "fast"), ("halves", "low")):
        runs[name] = {**train(seed=78, memory=memory)}
        runs[name]["inputs"] |= {"model": ["patched", 0]}
        runs[f"loss {name}"] = show([name, 3])
    before = done(comfy.run(demo(**draw(graphs.MODEL)))).images["save"]
    made = done(comfy.run(demo(**patched, **runs)))
    whole, halves = (json.loads(made.text(f"loss {name}"))["loss"] for name in ("whole", "halves"))
    assert halves == pytest.approx(whole, abs=1e-4)
    plain = done(comfy.run(demo(train=train(seed=78), loss=show(["train", 3])))).text("loss")
    assert abs(json.loads(plain)["loss"][0] - whole[0]) > 1e-4  # the patch was there
    workflow = demo(**draw(graphs.MODEL))
    workflow["save_sampler"]["inputs"]["denoise"] = 0.9999999  # another input, so that it is sampled again
    assert np.array_equal(before, done(comfy.run(workflow)).images["save"])


def test_other_loras_stack_with_ours(comfy: Server, saved: dict[str, str]):
    """The host's own loader with our style file on top of our structure equals our fusion of both."""
    load = {
        "a": node("ReCharLoadStructureLoRA", file=saved["structure"]),
        "b": node("ReCharLoadStyleLoRA", file=saved["style"]),
        "one": fuse(["a", 0]),
        "two": node("LoraLoaderModelOnly", model=["one", 0], lora_name=saved["style"], strength_model=0.7),
        "ours": fuse(["a", 0], ["b", 0], 1.0, 0.7),
    }
    made = done(comfy.run(demo(**load, **draw(["two", 0], "stacked"), **draw(["ours", 0], "fused"))))
    assert np.abs(made.images["stacked"].astype(int) - made.images["fused"]).max() <= 1


def test_lora_model_and_loss_map_fit_the_hosts_own_nodes(comfy: Server):
    known = comfy.object_info()
    save = "SaveLoRA" if "SaveLoRA" in known else "SaveLoRANode"
    nodes = {
        "train": train(seed=51),
        "native": node(save, lora=["train", 2], prefix="loras/native"),
        "plot": node("LossGraphNode", loss=["train", 3], filename_prefix="loss"),
        "apply": node(
            "LoraModelLoader",
            model=graphs.MODEL,
            lora=["train", 2],
            strength_model=1.0,
            bypass=False,  # required by newer hosts, not known to older ones
        ),
        "ours": fuse(*BOTH),
    }
    made = done(
        comfy.run(demo(**nodes, **draw(["apply", 0], "native_draw"), **draw(["ours", 0], "our_draw")))
    )
    assert np.abs(made.images["native_draw"].astype(int) - made.images["our_draw"]).max() <= 1
    (native,) = (comfy.base / "output" / "loras").glob("native*.safetensors")
    assert [b.name for b in files.read(native).blocks] == ["structure", "style"]


def test_inspect_charts_every_layer(comfy: Server, saved: dict[str, str]):
    nodes = {
        "a": node("ReCharLoadStructureLoRA", file=saved["structure"]),
        "inspect": node("ReCharInspectBLoRA", blora=["a", 0]),
        "report": show(["inspect", 0]),
        "trigger": show(["a", 1]),
        "chart": node("PreviewImage", images=["inspect", 1]),
    }
    made = done(comfy.run(demo(**nodes)))
    assert made.text("trigger") == "A [v]"
    assert "structure block" in made.text("report")
    assert made.images["chart"].std() > 5


def test_alpha_grid_draws_every_pair(comfy: Server, saved: dict[str, str]):
    wires = {
        "model": graphs.MODEL,
        "vae": graphs.VAE,
        "positive": ["p_prompt", 0],
        "negative": ["p_empty", 0],
    }
    sampler = {"seed": 1, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
    nodes = {
        "a": node("ReCharLoadStructureLoRA", file=saved["structure"]),
        "b": node("ReCharLoadStyleLoRA", file=saved["style"]),
        "grid": node(
            "ReCharAlphaGrid",
            **wires,
            latent_image=["p_size", 0],
            structure=["a", 0],
            style=["b", 0],
            structure_alphas="0, 1",
            style_alphas="0, 0.5, 1",
            **sampler,
        ),
        "sheet": node("PreviewImage", images=["grid", 0]),
        "all": node("PreviewImage", images=["grid", 1]),
    }
    made = done(comfy.run(demo(**draw(graphs.MODEL, "p"), **nodes)))
    assert made.images["all"].shape == (6, SIDE, SIDE, 3)
    assert np.array_equal(made.images["all"][0], made.images["p"][0])
    assert made.images["sheet"].shape[1] > 3 * SIDE and made.images["sheet"].shape[2] > 2 * SIDE


def test_the_alpha_grid_keeps_what_a_latent_carries(comfy: Server, saved: dict[str, str]):
    """A noise mask, and the place in a batch that it was taken from: the cell is what KSampler draws."""
    sampler = {
        "seed": 1,
        "steps": 4,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    texts = {"model": graphs.MODEL, "positive": ["p_prompt", 0], "negative": ["p_empty", 0]}
    nodes = {
        "glyph": graphs.glyph("木"),
        "encoded": node("VAEEncode", pixels=["glyph", 0], vae=graphs.VAE),
        "half": node("SolidMask", value=1.0, width=SIDE // 2, height=SIDE),
        "whole": node("SolidMask", value=0.0, width=SIDE, height=SIDE),
        "mask": node(
            "MaskComposite", destination=["whole", 0], source=["half", 0], x=0, y=0, operation="add"
        ),
        "masked": node("SetLatentNoiseMask", samples=["encoded", 0], mask=["mask", 0]),
        "batch": node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=3),
        "third": node("LatentFromBatch", samples=["batch", 0], batch_index=2, length=1),
        "b": node("ReCharLoadStyleLoRA", file=saved["style"]),
    }
    for name in ("masked", "third"):
        nodes |= {
            f"grid {name}": node(
                "ReCharAlphaGrid",
                **texts,
                vae=graphs.VAE,
                latent_image=[name, 0],
                style=["b", 0],
                structure_alphas="0",
                style_alphas="0",
                **{k: v for k, v in sampler.items() if k != "denoise"},
            ),
            f"sampled {name}": node("KSampler", **texts, latent_image=[name, 0], **sampler),
            f"decoded {name}": node("VAEDecode", samples=[f"sampled {name}", 0], vae=graphs.VAE),
            f"ours {name}": node("PreviewImage", images=[f"grid {name}", 1]),
            f"theirs {name}": node("PreviewImage", images=[f"decoded {name}", 0]),
        }
    made = done(comfy.run(demo(**draw(graphs.MODEL, "p"), **nodes)))
    for name in ("masked", "third"):
        assert np.array_equal(made.images[f"ours {name}"], made.images[f"theirs {name}"])
    assert not np.array_equal(made.images["ours masked"], made.images["ours third"])


def prompt_node(**changes: Any) -> dict[str, Any]:
    settings = {"template": "A [c] in [s] style", "structure_trigger": "A [v]", "style_trigger": "A [s]"}
    return node(
        "ReCharElementPrompt",
        clip=graphs.CLIP,
        **{**settings, "elements": "stars", "keep": "auto", "element_weight": 1.0, **changes},
    )


def test_element_prompt_drops_tokens_and_all_is_an_ordinary_prompt(comfy: Server):
    plain = "A [ v ] in [ s ] style with stars"
    nodes: dict[str, Any] = {
        "auto": prompt_node(),
        "all": prompt_node(keep="all"),
        "text": node("CLIPTextEncode", clip=graphs.CLIP, text=plain),
        "kept": show(["auto", 1]),
    }
    for name in ("auto", "all", "text"):
        nodes |= draw(graphs.MODEL, f"d_{name}", [name, 0])
    made = done(comfy.run(demo(**nodes)))
    assert made.text("kept") == "[ v ] [ s ] stars"
    assert np.array_equal(made.images["d_all"], made.images["d_text"])
    assert not np.array_equal(made.images["d_auto"], made.images["d_text"])


def test_emphasis_is_the_hosts_own(comfy: Server):
    """A failure means that (word:1.4) draws otherwise than in CLIP Text Encode."""
    text = "a (bold:0.6) sign with ((red) stars:1.5) , (blue) moon"
    nodes: dict[str, Any] = {
        "ours": prompt_node(
            template="a (bold:0.6) sign", elements="((red) stars:1.5), (blue) moon", keep="all"
        ),
        "text": node("CLIPTextEncode", clip=graphs.CLIP, text=text),
        "plain": prompt_node(template="a bold sign", elements="red stars, blue moon", keep="all"),
    }
    for name in tuple(nodes):
        nodes |= draw(graphs.MODEL, f"d_{name}", [name, 0])
    images = done(comfy.run(demo(**nodes))).images
    assert np.array_equal(images["d_ours"], images["d_text"])
    assert not np.array_equal(images["d_ours"], images["d_plain"])


def test_elements_stay_in_their_region(comfy: Server):
    """With the region empty, the elements change nothing; with it full, they act as without a region."""
    nodes: dict[str, Any] = {"none": prompt_node(keep="all", elements="")}
    for name, value in (("empty", 0.0), ("full", 1.0)):
        nodes[f"mask_{name}"] = node("SolidMask", value=value, width=SIDE, height=SIDE)
        nodes[name] = prompt_node(keep="all", region=[f"mask_{name}", 0])
    nodes["whole"] = prompt_node(keep="all")
    for name in ("none", "empty", "full", "whole"):
        nodes |= draw(graphs.MODEL, f"d_{name}", [name, 0])
    images = done(comfy.run(demo(**nodes))).images
    assert np.abs(images["d_empty"].astype(int) - images["d_none"]).max() <= 1
    assert np.abs(images["d_full"].astype(int) - images["d_whole"]).max() <= 1
    assert not np.array_equal(images["d_none"], images["d_whole"])


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({"x": train(steps=-1), "s": show(["x", 3])}, "steps"),
        ({"x": train(choose=2), "s": show(["x", 3])}, "choose is 2, but trials is 1"),
        ({"x": train(resolution=100), "s": show(["x", 3])}, "resolution is 100; it must be a multiple of 8"),
        ({"x": fuse(), "y": node("ReCharSaveBLoRA", name="a")}, "nothing to save"),
        (
            {"train": train(), "y": node("ReCharSaveBLoRA", name="../../evil", structure=BOTH[0])},
            "cannot be a file name",
        ),
        *(
            (
                {"train": train(), "y": node("ReCharSaveBLoRA", name=name, structure=BOTH[0])},
                "cannot be a file name",
            )
            for name in ("con", "evil/..", ".", "e\nvil", "C:evil")
        ),
        (
            {"x": prompt_node(elements="", template="a cat"), "s": show(["x", 1])},
            "Nothing of 'a cat' would be kept",
        ),
        ({"train": train(), "x": fuse(BOTH[1]), **draw(["x", 0])}, "no weights in the structure block"),
        (
            {"x": node("ReCharLoadStyleLoRA", file="none.safetensors"), "s": show(["x", 1])},
            "none.safetensors",
        ),
    ],
    ids=[
        "steps",
        "choose",
        "resolution",
        "nothing",
        "escape",
        "name",
        "folder",
        "dot",
        "line",
        "drive",
        "kept",
        "block",
        "file",
    ],
)
def test_bad_input_is_one_clear_sentence(comfy: Server, nodes: Any, words: str):
    error = comfy.run(demo(**nodes)).error
    assert words in error and "\n" not in error
    assert not list(comfy.base.rglob("evil*")) and not list((comfy.base / "models").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b"\x80\x02}q\x00."), "pickle"),
        (lambda path: path.write_bytes(b"garbage"), "bad.safetensors"),
        (
            lambda path: save_file(
                {"double_blocks.0.img_attn.qkv.lora_down.weight": torch.zeros(4, 8)}, path
            ),
            "Flux",
        ),
        (
            lambda path: save_file(
                {"lora_unet_up_blocks_1_attentions_0_proj_in.lora_up.weight": torch.ones(4, 4)}, path
            ),
            "block",
        ),
    ],
    ids=["pickle", "garbage", "flux", "outside"],
)
def test_bad_files_are_explained_by_the_load_node(comfy: Server, make: Any, words: str):
    path = lora_file(comfy, "bad.safetensors")
    make(path)
    try:
        nodes = {"x": node("ReCharLoadStructureLoRA", file="bad.safetensors"), "s": show(["x", 1])}
        error = comfy.run(demo(**nodes)).error
    finally:
        path.unlink()
    assert words in error and "\n" not in error


def test_a_lora_of_another_size_is_refused_not_skipped(comfy: Server, saved: dict[str, str]):
    """The host itself would log a line and draw without the LoRA."""
    wide = {p: LoraPair(torch.ones(4, 640), torch.ones(640, 4), 4.0) for p in read(comfy, saved).pairs}
    files.write(BLora(wide), lora_file(comfy, "wide.safetensors"))
    nodes = {
        "a": node("ReCharLoadStructureLoRA", file="wide.safetensors"),
        "x": fuse(["a", 0]),
        **draw(["x", 0]),
    }
    error = comfy.run(demo(**nodes)).error
    assert "does not fit this model" in error and "640" in error


def read(comfy: Server, saved: dict[str, str]) -> BLora:
    return files.read(lora_file(comfy, saved["structure"]))


def test_every_file_format_gives_the_same_picture(comfy: Server, saved: dict[str, str]):
    """A failure means that some published files do nothing here, as in other packs."""
    blora, nodes = read(comfy, saved), {}
    for format in ("kohya", "kohya-sgm", "diffusers", "peft", "comfy"):
        files.write(blora, lora_file(comfy, f"f_{format}"), format=format)
        nodes[f"l_{format}"] = node("ReCharLoadStructureLoRA", file=f"f_{format}.safetensors")
        nodes[f"x_{format}"] = fuse([f"l_{format}", 0])
        nodes |= draw([f"x_{format}", 0], format)
    images = done(comfy.run(demo(**nodes))).images
    pictures = [images[f] for f in ("kohya", "kohya-sgm", "diffusers", "peft", "comfy")]
    assert all(np.abs(p.astype(int) - pictures[0]).max() <= 1 for p in pictures)
    assert (
        load_file(lora_file(comfy, "f_peft.safetensors")).keys()
        != load_file(lora_file(comfy, "f_kohya.safetensors")).keys()
    )


def test_kinds_that_only_comfyui_applies_do_what_their_lora_does(comfy: Server, saved: dict[str, str]):
    """LoHa with ones as its second matrix, LoKr with 1 as its first, and a full difference are the LoRA itself."""
    pairs = read(comfy, saved).pairs
    kinds = {
        "loha": lambda p: {
            "hada_w1_a": p.up,
            "hada_w1_b": p.down,
            "hada_w2_a": torch.ones(len(p.up), 1),
            "hada_w2_b": torch.ones(1, p.down.shape[1]),
            "alpha": torch.tensor(p.network_alpha),
        },
        "lokr": lambda p: {"lokr_w1": torch.ones(1, 1), "lokr_w2": p.delta()},
        "full": lambda p: {"diff": p.delta()},
    }
    nodes: dict[str, Any] = {"l_lora": node("ReCharLoadStructureLoRA", file=saved["structure"])}
    for kind, parts in kinds.items():
        made = BLora({}, passthrough={path: parts(pair) for path, pair in pairs.items()})
        files.write(made, lora_file(comfy, f"k_{kind}"))
        nodes[f"l_{kind}"] = node("ReCharLoadStructureLoRA", file=f"k_{kind}.safetensors")
    for kind in ("lora", *kinds):
        nodes |= {f"x_{kind}": fuse([f"l_{kind}", 0], structure_alpha=0.7), **draw([f"x_{kind}", 0], kind)}
    images = done(comfy.run(demo(**nodes, **draw(graphs.MODEL, "none")))).images
    for kind in kinds:
        assert np.abs(images[kind].astype(int) - images["lora"]).max() <= 1, kind
    assert not np.array_equal(images["lora"], images["none"])


def test_what_the_hosts_own_trainer_makes_is_fused_saved_and_inspected(comfy: Server):
    """A failure means that a LORA_MODEL cannot be connected where a BLORA can, or does nothing there."""
    settings = {"batch_size": 1, "steps": 3, "grad_accumulation_steps": 1, "learning_rate": 0.1, "rank": 2}
    settings |= {"optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "algorithm": "LoRA"}
    settings |= {"training_dtype": "fp32", "lora_dtype": "fp32", "gradient_checkpointing": False}
    settings |= {"existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False, "offloading": False}
    settings |= {"quantized_backward": False, "checkpoint_depth": 1}
    # Older hosts give the patched MODEL first.
    lora = ["own", comfy.object_info()["TrainLoraNode"]["output"].index("LORA_MODEL")]
    nodes = {
        "empty": node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1),
        "words": node("CLIPTextEncode", clip=graphs.CLIP, text="A [v]"),
        "own": node(
            "TrainLoraNode", model=graphs.MODEL, latents=["empty", 0], positive=["words", 0], **settings
        ),
        "x": fuse(lora, lora),
        "inspect": node("ReCharInspectBLoRA", blora=lora),
        "save": node("ReCharSaveBLoRA", name="own", structure=lora, style=lora),
        "report": show(["inspect", 0]),
    }
    images = done(comfy.run(demo(**nodes, **draw(["x", 0], "fused"), **draw(graphs.MODEL, "bare")))).images
    assert not np.array_equal(images["fused"], images["bare"])
    for part in ("structure", "style"):
        assert [b.name for b in files.read(lora_file(comfy, f"own_{part}.safetensors")).blocks] == [part]
