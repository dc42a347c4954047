"""Run by the host's Python, not by pytest: references in the host on inputs that test_host_references made.

    python host_references.py PACK FOLDER      in a ComfyUI checkout's folder

Reads FOLDER/inputs.safetensors, FOLDER/adapter_N.safetensors and FOLDER/config.json; writes FOLDER/outputs.safetensors
and FOLDER/about.json.
"""

import copy
import json

from in_host import FOLDER, part, start

start("--fp32-text-enc")

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

INPUTS, CONFIG = load_file(FOLDER / "inputs.safetensors"), json.loads((FOLDER / "config.json").read_text())
HOST = part("nodes.host.references")
LAYOUT = part("rechar_core.synthesis.references.layout").Layout
reference_of = part("rechar_core.synthesis.references.encoding").reference_of


def predict(model, name, sigma=None, halves=(1, 0)):
    """The UNet's raw output for the inputs of a size, [unconditional, conditional]."""
    base, noisy = model.model, INPUTS[f"{name}.noisy"]
    options = dict(model.model_options["transformer_options"])
    options |= {"cond_or_uncond": list(halves), "sigmas": torch.tensor([1.0 if sigma is None else sigma])}
    time = torch.full((len(noisy),), float(CONFIG["timestep"]))
    y = INPUTS[f"{name}.y"]
    return base.diffusion_model(noisy, time, context=INPUTS["context"], y=y, transformer_options=options)


def references(adapters, used):
    """The given adapters' references, [unconditional, conditional] features being stored."""
    found = []
    for number in used:
        unseen, seen = INPUTS[f"features.{number}"].split(1)
        found.append(reference_of(adapters[number], CONFIG["roles"][number], seen, unseen))
    return found


def compare(model, adapters):
    """Every case of the configuration, and the unpatched model at every size."""
    found = {}
    for size in CONFIG["sizes"]:
        found[f"plain.{size}"] = predict(model, size)
    for name, case in CONFIG["cases"].items():
        masks = dict.fromkeys(case["masked"], INPUTS[f"{case['size']}.mask"])
        scales = dict(zip(CONFIG["roles"], case["scales"]))
        patched = HOST.apply_references(
            model,
            references(adapters, case["used"]),
            LAYOUT(masks, mask_mode="official"),
            scales,
            weights=case["weights"],
        )
        found[name] = predict(patched, case["size"])
    return found


def manners(model, adapters):
    """How the patches behave beside others: booleans and counts for the tests to judge."""
    (one,), both, layout = references(adapters, [0]), references(adapters, [0, 1]), LAYOUT()
    scales = {"structure": 1.5, "style": 0.8}
    plain, size = predict(model, "square"), "square"
    zero = HOST.apply_references(model, both, layout, {"structure": 0.0, "style": 0.0})
    first = HOST.apply_references(model, [one], layout, scales)
    alone = predict(first, size)
    second = HOST.apply_references(first, both[1:], layout, scales)
    chained = predict(second, size)
    early = HOST.apply_references(model, both, layout, scales, start=0.0, end=0.3)
    moved = model.clone()  # as by a Model Sampling node: sigmas ten times as large
    sampling = copy.deepcopy(model.get_model_object("model_sampling"))
    sampling.set_sigmas(sampling.sigmas * 10)
    moved.add_object_patch("model_sampling", sampling)
    late = HOST.apply_references(moved, both, layout, scales, start=0.0, end=0.3)
    return {
        "zero_is_plain": torch.equal(predict(zero, size), plain),
        "zero_patches": len(zero.model_options["transformer_options"].get("patches_replace", {})),
        "model_untouched": "patches_replace" not in model.model_options["transformer_options"]
        and torch.equal(predict(model, size), plain),
        "chain_leaves_the_first": torch.equal(predict(first, size), alone),
        "chain_is_the_sum": (chained - predict(HOST.apply_references(model, both, layout, scales), size))
        .abs()
        .max()
        .item(),
        "before_the_end": (predict(early, size, sigma=14.0) - plain).abs().max().item(),
        "after_the_end": torch.equal(predict(early, size, sigma=0.1), plain),
        "other_sampling": (predict(late, size, sigma=140.0) - plain).abs().max().item(),
        "other_sampling_after": torch.equal(predict(late, size, sigma=10.0), plain),
        "kept_patches": all(
            a.branches[0] is b.branches[0]
            for a, b in zip(patches_of(first), patches_of(first.clone()), strict=True)
        ),
        "swapped_halves": (predict(first, size, halves=(0, 1)) - alone).abs().max().item(),
        **neighbours(model, one, scales, plain),
        **middle(model, one, scales, plain),
    }


def patches_of(model):
    """Our patches in a MODEL."""
    return list(model.model_options["transformer_options"]["patches_replace"]["attn2"].values())


def neighbours(model, one, scales, plain):
    """Patches of other packs before and after ours."""
    from comfy.ldm.modules.attention import optimized_attention

    calls = []

    def theirs(q, k, v, options):
        calls.append(options["block"])
        return optimized_attention(q, k, v, options["n_heads"])

    other = model.clone()
    for block in (("input", 7), ("middle", 0), ("output", 1)):
        other.set_model_attn2_replace(theirs, *block)
    ours = HOST.apply_references(other, [one], LAYOUT(), scales)
    alone = predict(HOST.apply_references(model, [one], LAYOUT(), scales), "square")
    with_theirs = predict(ours, "square")
    blocks = len(calls)
    cached = HOST.apply_references(model, [one], LAYOUT(), scales)
    joined = cached.clone()  # as another pack's node, behind ours, does with what the host keeps in its cache
    patch = joined.model_options["transformer_options"]["patches_replace"]["attn2"][("output", 0, 0)]
    patch.add(lambda out, q, k, v, options, **_: torch.ones_like(out), sigma_start=20.0, sigma_end=0.5)
    return {
        "their_calls": blocks,
        "beside_theirs": (with_theirs - alone).abs().max().item(),
        "joined": (predict(joined, "square", sigma=1.0) - alone).abs().max().item(),
        "joined_again": torch.equal(predict(cached.clone(), "square", sigma=1.0), alone),
        "joined_outside": torch.equal(predict(joined, "square", sigma=0.1), alone),
    }


def middle(model, one, scales, plain):
    """Which blocks a reference reaches, each alone."""
    layers = part("nodes.host.layers")
    shapes = [(n, w.shape[0]) for n, w in model.model.diffusion_model.state_dict().items()]
    found = layers.layers_of(shapes)
    moved = {}
    for block in dict.fromkeys(layer.block_name for layer in found):
        patched = HOST.apply_references(model, [one], LAYOUT(), scales, weights=f"{block}: 1, *: 0")
        moved[block] = (predict(patched, "square") - plain).abs().max().item()
    return {"moved": moved, "layers": [(x.side, x.block, x.index, x.width) for x in found]}


def vision():
    """A tiny CLIP_VISION on a picture: its features, and the references that the node makes of it."""
    import comfy.clip_vision

    encoder = comfy.clip_vision.ClipVisionModel(str(FOLDER / "vision.json"))
    state = {k.removeprefix("vision."): t for k, t in INPUTS.items() if k.startswith("vision.")}
    missing, unexpected = encoder.load_sd(state)
    picture = INPUTS["picture"]
    output = encoder.encode_image(picture)
    found = {"hidden": output["penultimate_hidden_states"], "pooled": output["image_embeds"]}
    both = HOST.HostIPAdapters(
        *(
            part("rechar_core.synthesis.references.projection").read_adapter(
                FOLDER / f"adapter_{n}.safetensors"
            )
            for n in (0, 1)
        ),
        encoder,
    )
    keep = torch.zeros(1, picture.shape[1], picture.shape[2])
    keep[:, :, picture.shape[2] // 2 :] = 1
    for role in CONFIG["roles"]:
        for mode in ("diffusers", "zeros", "black"):
            made = both.encode_reference(picture, role, None, mode, 1.0)
            found |= {f"{role}.seen": made.conditional, f"{role}.{mode}": made.unconditional}
    paper = torch.cat([torch.zeros_like(picture), torch.zeros_like(picture[..., :1])], -1)  # all transparent
    both_white = [
        both.encode_reference(p, "style", None, "zeros", 1.0) for p in (paper, torch.ones_like(picture))
    ]
    dropped = both.encode_reference(picture, "structure", keep, "diffusers", 1.0)
    found |= {"dropped.seen": dropped.conditional, "dropped.unseen": dropped.unconditional}
    errors = []
    for attempt in (
        lambda: both.encode_reference(picture, "style", keep, "zeros", 1.0),
        lambda: both.encode_reference(picture, "structure", keep * 0, "zeros", 1.0),
        lambda: HOST.HostIPAdapters(None, None, encoder).encode_reference(picture, "style"),
        lambda: HOST.HostIPAdapters(encoder=object()).widths(),
    ):
        try:
            attempt()
        except Exception as error:
            errors.append(str(error))
    clear, white = (made.conditional for made in both_white)
    about = {
        "transparent_is_white": torch.equal(clear, white),
        "widths": both.widths(),
        "errors": errors,
        "unplaced": [*missing, *unexpected],
    }
    return found, about


def main():
    demo = part("nodes.host.demo_model")
    state = {name[6:]: tensor for name, tensor in INPUTS.items() if name.startswith("state.")}
    read = part("rechar_core.synthesis.references.projection").read_adapter
    with torch.inference_mode():  # as in a node
        model, _, _ = demo.load_demo(state, CONFIG)
        import comfy.model_management

        comfy.model_management.load_models_gpu([model])
        adapters = [read(FOLDER / f"adapter_{n}.safetensors") for n in (0, 1)]
        found = compare(model, adapters)
        about = manners(model, adapters)
        seen, judged = vision()
    found = {k: t.detach().float().contiguous().clone() for k, t in (found | seen).items()}
    save_file(found, FOLDER / "outputs.safetensors")
    (FOLDER / "about.json").write_text(json.dumps(about | judged))


main()
