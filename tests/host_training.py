"""Run by the host's Python, not by pytest: training on the demo model in each memory mode, and in the plainest way.

    python host_training.py PACK FOLDER      in a ComfyUI checkout's folder

Reads FOLDER/inputs.safetensors, writes FOLDER/outputs.safetensors and FOLDER/about.json.
"""

import dataclasses
import json
import types

from in_host import FOLDER, part, start

start()

import comfy.model_base  # noqa: E402
import comfy.model_management  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402


def plain(run):
    """The same run in the simplest way: the host's whole UNet, one step after the other."""
    recipe, denoiser, cond = run.recipe, run.denoiser, run.conditioning
    optimizer = torch.optim.AdamW(run.lora_layers.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
    objective, losses = part("rechar_core.training.objective"), []
    sizes = [int(v) for v in cond.time_ids[0].tolist()]
    y = denoiser.model.encode_adm(
        pooled_output=cond.pooled,
        height=sizes[0],
        width=sizes[1],
        target_height=sizes[4],
        target_width=sizes[5],
    )
    with run.lora_layers.attached():
        for number in range(recipe.steps):
            picture = run.pictures[run.noise_source.picture(number, len(run.pictures))]
            drawn = run.noise_source.step(number, tuple(picture.mean.shape), 1000)
            x0 = picture.sample(drawn.posterior)
            abar = denoiser.alphas_cumprod[drawn.timesteps].view(-1, 1, 1, 1)
            noisy = abar.sqrt() * x0 + (1 - abar).sqrt() * drawn.noise
            answer = denoiser.model.diffusion_model(noisy, drawn.timesteps.float(), context=cond.context, y=y)
            wanted = objective.target(denoiser.prediction, x0, drawn.noise, abar)
            loss = torch.nn.functional.mse_loss(answer, wanted)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(run.lora_layers.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss))
    return losses


def sampled(model, kind):
    """MODEL as a Model Sampling node leaves it: its own type stays what it was."""
    patched = model.clone()
    sampling = comfy.model_base.model_sampling(model.model.model_config, kind)
    patched.add_object_patch("model_sampling", sampling)
    return patched


def train(model, inputs, mode, prediction):
    """Losses and deltas of a short run on pictures of several shapes; mode None is the plain way."""
    host, loop = part("nodes.host.denoiser"), part("rechar_core.training.loop")
    driver = part("rechar_core.training.run")
    values = part("rechar_core.training.denoiser")
    recipe = part("rechar_core.training.recipe").TrainingRecipe(rank=4, steps=18, learning_rate=1e-4)
    draw = torch.Generator().manual_seed(5)
    unet = model.model.diffusion_model
    context = torch.randn(
        1, 77, unet.input_blocks[4][1].transformer_blocks[0].attn2.to_k.in_features, generator=draw
    )
    size = torch.tensor([[192.0, 256.0, 0.0, 0.0, 192.0, 256.0]])
    pooled = torch.randn(1, unet.label_emb[0][0].in_features - 6 * 256, generator=draw)
    with host.trainable(model) as denoiser:
        assert denoiser.prediction == prediction
        latents = [inputs[f"picture.{i}"].clone() for i in range(3)]
        moments = [values.LatentMoments(x, torch.full_like(x, 0.1)) for x in latents]
        cond = host.ordinary(values.Conditioning(context, pooled, size), denoiser.device)
        run = loop.Training(denoiser, moments, cond, recipe)
        if mode is None:
            denoiser.load()
            losses = plain(run)
        else:
            losses = [float(step.loss) for step in driver.TrainingRun([run], mode).steps()]
        pairs = run.blora().pairs
        return torch.tensor(losses), torch.cat([pairs[p].delta().flatten() for p in sorted(pairs)])


def moved_back(model):
    """Weights on another device are the host's own again; here that is "meta", which holds no values."""
    own_weights = part("nodes.host.weights").own_weights
    meta, cpu = torch.device("meta"), torch.device("cpu")
    unet = model.model.diffusion_model
    before = tensors_of(unet)
    with own_weights(model.clone(), ["diffusion_model"], torch.float32) as own, torch.inference_mode(False):
        own.place([unet], cpu)
        ours = dict(unet.out.named_parameters())
        own.place([unet.input_blocks, unet.out], meta)
        away = unet.out[2].weight.is_meta and unet.input_blocks[0][0].weight.is_meta
        away = away and not unet.middle_block[0].in_layers[2].weight.is_meta
        own.place([unet.out], cpu)
        kept = all(torch.equal(tensor, ours[name]) for name, tensor in unet.out.named_parameters())
        own.place([unet.out], meta)
    after = tensors_of(unet)
    return away and kept and all(after[name] is before[name] for name in before)


def tensors_of(unet):
    return {**dict(unet.named_parameters()), **dict(unet.named_buffers())}


def modes(model):
    """What `auto` takes where 7 GB of GPU memory are free for a UNet of 5 GB: for one LoRA and for eight of them."""
    recipe = part("rechar_core.training.recipe").TrainingRecipe()
    picture = part("rechar_core.training.denoiser").LatentMoments(*[torch.zeros(1, 4, 64, 64)] * 2)
    unet = types.SimpleNamespace(
        parameters=lambda: [torch.empty(2_567_463_684, device="meta", dtype=torch.float16)]
    )
    on_gpu = types.SimpleNamespace(
        device=torch.device("cuda"),
        patcher=types.SimpleNamespace(get_model_object=lambda name: torch.float16),
        model=types.SimpleNamespace(diffusion_model=unet),
    )
    free = comfy.model_management.get_free_memory
    comfy.model_management.get_free_memory = lambda device: 7 * 2**30
    try:
        return [part("nodes.host.training")._mode(recipe, on_gpu, [picture], loras) for loras in (1, 8)]
    finally:
        comfy.model_management.get_free_memory = free


def half(model, clip, vae):
    """A short run of the node on a fp16 MODEL and a RGBA picture: precision, losses, share of weights left 0."""
    recipe = part("rechar_core.training.recipe").TrainingRecipe(
        rank=4, steps=4, resolution=64, learning_rate=1e-3
    )
    unet = model.model.diffusion_model
    unet.half().dtype = torch.float16
    picture = torch.rand(1, 64, 64, 4, generator=torch.Generator().manual_seed(3))
    try:
        (made,) = part("nodes.host.training").train(model, clip, vae, picture, recipe)
    finally:
        unet.float().dtype = torch.float32
    still = torch.cat([(pair.up == 0).flatten().float() for pair in made.blora.pairs.values()]).mean()
    return {"precision": made.blora.recipe["precision"], "losses": made.losses, "still": float(still)}


def cached(model, clip, vae):
    """The node where its file cannot be written, then where it can, then from its cache; and what was hashed, read."""
    node, jobs = part("nodes.host.training"), part("rechar_core.training.job")
    recipe = part("rechar_core.training.recipe").TrainingRecipe(
        rank=4, steps=4, resolution=64, learning_rate=1e-3, seed=7
    )
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    files, hashed, updates, read = node.files, jobs._hash, [], []
    write, step = files.write, torch.optim.AdamW.step
    counts = {"hashes": 0, "reads": 0}

    def refuse(*_, **__):
        raise OSError("No space left on device")

    def counted_hash(*given):
        counts["hashes"] += 1
        return hashed(*given)

    def counted_read(*given):
        counts["reads"] += 1
        return whole_read(*given)

    def counted_step(*given, **settings):
        updates.append(1)
        return step(*given, **settings)

    whole_read = files.read
    torch.optim.AdamW.step, jobs._hash, files.read = counted_step, counted_hash, counted_read
    try:
        files.write = refuse
        try:
            node.train(model, clip, vae, picture, recipe)
            read.append("written")
        except OSError:
            read.append(len(updates))
        files.write = write
        counts |= {"hashes": 0, "reads": 0}
        (made,) = node.train(model, clip, vae, picture, recipe)
        about = {**counts, "states": len(list(node.cache_folder().glob("*.state")))}
        (again,) = node.train(model, clip, vae, picture, recipe)
    finally:
        torch.optim.AdamW.step, jobs._hash, files.read, files.write = step, hashed, whole_read, write
    pairs = made.blora.pairs, again.blora.pairs
    same = pairs[0].keys() == pairs[1].keys() and all(
        torch.equal(a.down, b.down) and torch.equal(a.up, b.up) and a.network_alpha == b.network_alpha
        for a, b in ((pairs[0][path], pairs[1][path]) for path in pairs[0])
    )
    plain = [dataclasses.replace(each.blora, pairs={}) for each in (made, again)]
    same = same and plain[0] == plain[1] and made.losses == again.losses
    return {**about, "refused_after": read[0], "updates": len(updates), "same": same}


def refusals(model, clip, vae):
    """What is said of a MODEL, CLIP or VAE that cannot be trained with."""
    from comfy.taesd.taesd import TAESD
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    check, said = part("nodes.host.inputs").check_trainable, []
    lcm = ModelSamplingDiscrete().patch(model, "lcm", False)[0]
    only_l = types.SimpleNamespace(tokenize=lambda text: {"l": clip.tokenize(text)["l"]})
    small_vae = types.SimpleNamespace(first_stage_model=TAESD(), latent_channels=4)
    for given in ((lcm, clip, vae), (model, None, vae), (model, only_l, vae), (model, clip, None)):
        said.append(refusal(check, *given))
    said.append(refusal(check, model, clip, small_vae))
    unet = model.model.diffusion_model
    unet.in_channels = 9
    said.append(refusal(check, model, clip, vae))
    unet.in_channels = 4
    return said


def refusal(check, *given):
    try:
        check(*given)
    except part("rechar_core.errors").ModelError as error:
        return str(error)
    return "accepted"


def main():
    inputs = load_file(FOLDER / "inputs.safetensors")
    found, traces, draw = {}, 0, torch.Generator().manual_seed(11)
    with torch.inference_mode():  # as in a node
        model, clip, vae = part("nodes.host.demo_model").shared_demo()
        for (
            tensor
        ) in model.model.diffusion_model.parameters():  # the shipped ones are partly silent: noise gradients
            tensor.add_(torch.randn(tensor.shape, generator=draw) * (0.1 if tensor.ndim == 1 else 0.02))
        before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
        types_of = {
            "epsilon": comfy.model_base.ModelType.EPS,
            "v_prediction": comfy.model_base.ModelType.V_PREDICTION,
        }
        for prediction, kind in types_of.items():
            patched = sampled(model, kind)
            for mode in (None, "fast", "normal", "low"):
                losses, deltas = train(patched, inputs, mode, prediction)
                found[f"{prediction}.{mode or 'plain'}.losses"] = losses.clone()
                found[f"{prediction}.{mode or 'plain'}.deltas"] = deltas.clone()
                modules = model.model.diffusion_model.modules()
                traces += sum("forward" in m.__dict__ or bool(m._forward_hooks) for m in modules)
        after = model.model.state_dict()
        changed = sum(not torch.equal(after[name], before[name]) for name in before)
        back = moved_back(model)
        kept, halved, said = cached(model, clip, vae), half(model, clip, vae), refusals(model, clip, vae)
    save_file(found, FOLDER / "outputs.safetensors")
    about = {"changed": changed, "traces": traces, "moved_back": back, "refusals": said, "half": halved}
    about["modes"], about["cached"] = modes(model), kept
    (FOLDER / "about.json").write_text(json.dumps(about))


main()
