"""Run by the host's Python, not by pytest: what nodes/host/weights.py makes of weights, however the host holds them.

    python host_weights.py PACK FOLDER      in a ComfyUI checkout's folder

Writes FOLDER/about.json, name -> what test_host_weights.py compares; FOLDER/outputs.safetensors holds nothing.
"""

import contextlib
import json

from in_host import FOLDER, part, start

start()

import comfy.model_management as management  # noqa: E402
import comfy.ops  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

QUERY = "output_blocks.0.1.transformer_blocks.0.attn1.to_q"
KEY = f"diffusion_model.{QUERY}.weight"
CPU = torch.device("cpu")


def owned(model, dtype=torch.float32):
    return part("nodes.host.weights").own_weights(model.clone(), ["diffusion_model"], dtype)


def with_lora(model, strength=0.7, **more):
    """MODEL with an ordinary LoRA of rank 4 on one layer, as LoraLoader adds it. more: of its file, name -> tensor."""
    import comfy.lora

    width, draw = (
        model.model.diffusion_model.get_submodule(QUERY).weight.shape[0],
        torch.Generator().manual_seed(2),
    )
    pair = {"q.lora_up.weight": (width, 4), "q.lora_down.weight": (4, width)}
    state = {name: torch.randn(*shape, generator=draw) * 0.3 for name, shape in pair.items()} | more
    patched = model.clone()
    patched.add_patches(comfy.lora.load_lora(state, {"q": KEY}), strength)
    return patched


def bypassed(model, strength=0.7, key=KEY, **more):
    """The same LoRA in the host's bypass mode."""
    from comfy.weight_adapter.bypass import BypassInjectionManager

    adapter = with_lora(model, **more).patches[KEY][0][1]
    manager = BypassInjectionManager()
    manager.add_adapter(key, adapter, strength)
    patched = model.clone()
    patched.set_injections("bypass_lora", manager.create_injections(patched.model))
    return patched


def losses(model):
    """Three steps of training, and the hash of the weights that they see."""
    host, values = part("nodes.host.denoiser"), part("rechar_core.training.denoiser")
    driver, loop = part("rechar_core.training.run"), part("rechar_core.training.loop")
    recipe = part("rechar_core.training.recipe").TrainingRecipe(rank=4, steps=3, learning_rate=1e-3)
    unet, draw = model.model.diffusion_model, torch.Generator().manual_seed(5)
    pooled = torch.randn(1, unet.label_emb[0][0].in_features - 6 * 256, generator=draw)
    context = torch.randn(
        1, 77, unet.input_blocks[4][1].transformer_blocks[0].attn2.to_k.in_features, generator=draw
    )
    latent = torch.randn(1, 4, 16, 16, generator=draw)
    with host.trainable(model) as denoiser:
        size = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]])
        cond = host.ordinary(values.Conditioning(context, pooled, size), CPU)
        moments = values.LatentMoments(latent.clone(), torch.full_like(latent, 0.1).clone())
        run = loop.Training(denoiser, [moments], cond, recipe)
        return [float(step.loss) for step in driver.TrainingRun([run]).steps()], run.job["model"]


def difference(first, second):
    return max(abs(a - b) for a, b in zip(losses(first)[0], losses(second)[0], strict=True))


def patched_values(model):
    """Ours with a LoRA beneath against the host's own, patched and loaded by it."""
    patched = with_lora(model)
    management.load_models_gpu([patched], force_full_load=True)
    theirs = {name: tensor.clone() for name, tensor in patched.model.diffusion_model.named_parameters()}
    with owned(patched) as own:
        own.place([patched.model.diffusion_model], CPU)
        ours = dict(patched.model.diffusion_model.named_parameters())
        equal = all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
        usable = not any(tensor.is_inference() for tensor in ours.values())
    raw = dict(model.model.diffusion_model.named_parameters())
    return {
        "equal": equal,
        "usable": usable,
        "moved": not torch.equal(theirs[f"{QUERY}.weight"], raw[f"{QUERY}.weight"]),
    }


def wrapped_value(model):
    """A weight that another pack changes by a function at each cast."""
    patched = model.clone()
    patched.add_weight_wrapper(KEY, lambda weight: weight * 3)
    layer = model.model.diffusion_model.get_submodule(QUERY)
    with owned(patched) as own:
        own.place([layer], CPU)
        three_times = layer.weight.clone()
    return bool(torch.equal(three_times, layer.weight * 3))


def traces(model):
    """Parameters and attributes of every module that are other objects after a run than before it."""
    patched = with_lora(model)
    unet = model.model.diffusion_model
    for module in unet.modules():  # as dynamic VRAM leaves them
        module.__dict__.update(_v=object(), weight_lowvram_function=object())
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = True
    before = [snapshot(module) for module in unet.modules()]
    losses(patched)
    with contextlib.suppress(KeyError), owned(patched) as own:
        own.place([unet], CPU)
        raise KeyError("broken off")
    after = [snapshot(module) for module in unet.modules()]
    for module in unet.modules():
        module.__dict__.pop("_v")
        module.__dict__.pop("weight_lowvram_function")
    return sum(a != b for a, b in zip(before, after, strict=True))


def left_by_a_failure(model):
    """What is left behind if one weight cannot be given back; and whether that is said."""
    unet, kind = model.model.diffusion_model, part("nodes.host.weights")._Weight
    before, whole, calls = [snapshot(module) for module in unet.modules()], kind.restore, []

    def failing(weight):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("broken off")
        whole(weight)

    patched, said = with_lora(model), ""
    kind.restore = failing
    try:
        with owned(patched) as own:
            own.place([unet], CPU)
    except RuntimeError as error:
        said = str(error)
    finally:
        kind.restore = whole
    after = [snapshot(module) for module in unet.modules()]
    return {"said": said, "traces": sum(a != b for a, b in zip(before, after, strict=True))}


def patched_without_room(model):
    """Whether a LoRA's patches are the CPU's where the card is full."""
    import comfy.lora

    patched, whole, full = with_lora(model), comfy.lora.calculate_weight, []

    def scarce(patches, weight, *rest, **more):
        if weight.is_meta:
            full.append(1)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return whole(patches, weight, *rest, **more)

    with owned(patched) as own:
        wanted = [value.clone() for value in own.values()]
    patched.load_device, comfy.lora.calculate_weight = torch.device("meta"), scarce
    try:
        with owned(patched) as own:
            equal = all(torch.equal(a, b) for a, b in zip(own.values(), wanted, strict=True))
    finally:
        comfy.lora.calculate_weight = whole
    return {"equal": equal, "full": len(full)}


def snapshot(module):
    """Which objects a module holds, by name."""
    tables = ("_parameters", "_buffers")
    held = {f"{table}.{name}": id(tensor) for table in tables for name, tensor in vars(module)[table].items()}
    return held | {name: id(value) for name, value in vars(module).items() if name not in tables}


def quantised(model):
    """Per layout: values of ours, and losses with a layer of the host's quantised kind, against dequantised weights."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    unet, found = model.model.diffusion_model, {}
    parent, _, name = QUERY.rpartition(".")
    block, plain = unet.get_submodule(parent), unet.get_submodule(QUERY)
    ops = comfy.ops.mixed_precision_ops(compute_dtype=torch.float32)
    for kind in ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise"):
        if kind not in QUANT_ALGOS:
            continue
        layout = QUANT_ALGOS[kind]["comfy_tensor_layout"]
        tensor = QuantizedTensor.from_float(plain.weight.detach().clone(), layout)
        layer = ops.Linear(plain.in_features, plain.out_features, bias=False, device=CPU, dtype=torch.float32)
        state = {f"weight{k.removeprefix('weight')}": v for k, v in tensor.state_dict("weight").items()}
        state["comfy_quant"] = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
        layer.load_state_dict(state, strict=False)
        values = layer.weight.to(torch.float32).dequantize().clone()
        try:
            setattr(block, name, layer)
            with_quantised = losses(model)
            held = isinstance(layer.weight, QuantizedTensor)
            there = part("nodes.host.training").bytes_used_as_they_are(
                [layer.weight, plain.weight], CPU, torch.float32
            )
            with owned(model) as own:
                own.place([unet], CPU)
                equal = bool(torch.equal(layer.weight, values))
            again = comfy.ops.disable_weight_init.Linear(plain.in_features, plain.out_features, bias=False)
            again.weight = torch.nn.Parameter(values, requires_grad=False)
            setattr(block, name, again)
            dequantised = losses(model)
        finally:
            setattr(block, name, plain)
        apart = max(abs(a - b) for a, b in zip(with_quantised[0], dequantised[0], strict=True))
        found[kind] = {"values_equal": equal, "given_back": held, "losses_apart": apart}
        found[kind]["counted_as_there"] = there == plain.weight.numel() * 4
        found[kind]["differs_from_plain"] = with_quantised[1] != losses(model)[1]
    return found


def packed(model):
    """What is said of a weight that is packed into bytes."""
    layer = model.model.diffusion_model.get_submodule(QUERY)
    kept = layer._parameters["weight"]
    layer._parameters["weight"] = torch.nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
    try:
        with owned(model):
            return "accepted"
    except part("rechar_core.errors").ModelError as error:
        return str(error)
    finally:
        layer._parameters["weight"] = kept


def schedules(model):
    """abar of MODEL and of Model Sampling nodes after the host has put another schedule into their objects (#16490)."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    read = part("nodes.host.inputs").alphas_cumprod
    zsnr = ModelSamplingDiscrete().patch(model, "v_prediction", True)[0]
    own, other = model.model.model_sampling, zsnr.object_patches["model_sampling"]
    own_sigmas, other_sigmas = own.sigmas.clone(), other.sigmas.clone()
    right = [1 / (1 + sigmas**2) for sigmas in (own_sigmas, other_sigmas)]
    own.set_sigmas(other_sigmas)
    other.set_sigmas(own_sigmas)
    leaked = [read(model), read(zsnr)]
    own.set_sigmas(own_sigmas)
    other.set_sigmas(own_sigmas * 0.5)  # another pack's own schedule
    custom = read(zsnr)
    return {
        "healed": all(torch.equal(a, b) for a, b in zip(leaked, right, strict=True)),
        "differ": not torch.equal(*right),
        "custom_kept": bool(torch.equal(custom, 1 / (1 + (own_sigmas * 0.5) ** 2))),
    }


def in_compute_dtype(model):
    """A run on what the host's node Model Compute Dtype makes of MODEL: precision, type of the weights, losses."""
    half = model.clone()
    half.set_model_compute_dtype(torch.bfloat16)
    host = part("nodes.host.denoiser")
    with host.trainable(half) as denoiser:
        denoiser.load()
        held = {str(weight.dtype) for weight in model.model.diffusion_model.parameters()}
    apart = difference(half, model)
    return {
        "precision": host.precision_of(half),
        "held": sorted(held),
        "apart": apart,
        "traces": traces(half),
    }


def encoded(model, vae):
    """The posterior against the plain module's, and whether the VAE's own weights and modules were copied."""
    import copy

    encode = part("nodes.host.encoders").encode_pictures
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    before = [snapshot(module) for module in vae.first_stage_model.modules()]
    deep, copied = copy.deepcopy, []
    copy.deepcopy = lambda thing, *rest: copied.append(type(thing)) or deep(thing, *rest)
    try:
        moments = encode(vae, picture, 64, 2.0)[0]
    finally:
        copy.deepcopy = deep
    after = [snapshot(module) for module in vae.first_stage_model.modules()]
    encoder = deep(
        torch.nn.Sequential(vae.first_stage_model.encoder, vae.first_stage_model.quant_conv)
    ).float()
    mean = encoder(picture.movedim(-1, 1) * 2 - 1).chunk(2, dim=1)[0] * 2.0
    copies = sum(issubclass(kind, torch.nn.Module) for kind in copied)
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    return {"apart": float((moments.mean - mean).abs().max()), "traces": changed, "copies": copies}


def prompted(clip):
    """What the UNet is told of size and place, and which parts of the prompt's encoding are kept."""
    text = r"A (red:1.1) [v] \(x\) ((very)) \ painting"
    made = part("nodes.host.encoders").encode_prompt(clip, text, 256)
    tokens = clip.tokenize("")  # then transformers' own tokens in it, each of weight 1
    for key, (chunk,) in tokens.items():
        words = getattr(clip.tokenizer, f"clip_{key}").tokenizer(text)["input_ids"][1:-1]
        given = [chunk[0], *((word, 1.0) for word in words), chunk[1]]
        tokens[key] = [[*given, *[chunk[-1]] * (len(chunk) - len(given))]]
    context, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    return {
        "ids": made.time_ids.tolist(),
        "same": torch.equal(made.context, context) and torch.equal(made.pooled, pooled),
    }


def main():
    draw = torch.Generator().manual_seed(11)
    with torch.inference_mode():  # as in a node
        model, clip, vae = part("nodes.host.demo_model").shared_demo()
        for tensor in model.model.diffusion_model.parameters():  # the shipped ones are partly silent
            tensor.add_(torch.randn(tensor.shape, generator=draw) * (0.1 if tensor.ndim == 1 else 0.02))
        about = {"patched": patched_values(model), "wrapped": wrapped_value(model), "traces": traces(model)}
        about["failure"], about["no_room"] = left_by_a_failure(model), patched_without_room(model)
        about["hashes"] = [
            losses(each)[1] for each in (model, with_lora(model), with_lora(model, 0.3), model)
        ]
        about["packed"], about["schedules"] = packed(model), schedules(model)
        about["prompted"] = prompted(clip)
        about["encoded"], about["compute_dtype"] = encoded(model, vae), in_compute_dtype(model)
        try:
            about["quantised"] = quantised(model)
        except ImportError:
            about["quantised"] = None
        try:
            about["bypass"] = {"apart": difference(bypassed(model), with_lora(model))}
            alphas = [bypassed(model, **{"q.alpha": torch.tensor(alpha)}) for alpha in (4.0, 8.0)]
            others = bypassed(model, 0.3), bypassed(model, key=KEY.replace("to_q", "to_k")), *alphas, model
            about["bypass"]["hashes"] = [losses(each)[1] for each in (bypassed(model), *others)]
        except ImportError:
            about["bypass"] = None
    (FOLDER / "about.json").write_text(json.dumps(about))
    save_file({}, FOLDER / "outputs.safetensors")


main()
