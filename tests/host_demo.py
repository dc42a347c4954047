"""Run by the host's Python, not by pytest: the demo model's host objects on inputs that test_host_demo made.

    python host_demo.py PACK FOLDER      in a ComfyUI checkout's folder

Reads FOLDER/inputs.safetensors and FOLDER/config.json, writes FOLDER/outputs.safetensors and FOLDER/about.json.
"""

import json
import logging

from in_host import FOLDER, part, start

start()

import comfy.model_management  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402


def run_clip(clip, prompts):
    """Context, pooled and token ids for every prompt."""
    found = {}
    for number, prompt in enumerate(prompts):
        tokens = clip.tokenize(prompt)
        found[f"ids_l.{number}"] = torch.tensor([[pair[0] for pair in tokens["l"][0]]])
        found[f"ids_g.{number}"] = torch.tensor([[pair[0] for pair in tokens["g"][0]]])
        found[f"context.{number}"], found[f"pooled.{number}"] = clip.encode_from_tokens(
            tokens, return_pooled=True
        )
    return found


def run_unet(model, inputs):
    """The raw prediction and the denoised latent, with the size conditioning that the host makes."""
    comfy.model_management.load_models_gpu([model])
    base, found = model.model, {}
    y = base.encode_adm(pooled_output=inputs["pooled"], width=256, height=192)
    for step in inputs["timesteps"].tolist():
        sigma = base.model_sampling.sigma(torch.tensor([float(step)]))
        noisy = base.model_sampling.noise_scaling(sigma, inputs["noise"], inputs["latent"], False)
        asked = base.model_sampling.calculate_input(sigma, noisy)
        raw = base.diffusion_model(asked, torch.tensor([float(step)]), context=inputs["context"], y=y)
        found[f"raw.{step}"] = raw
        found[f"denoised.{step}"] = base.apply_model(noisy, sigma, c_crossattn=inputs["context"], y=y)
        found[f"sigma.{step}"] = sigma
    return found


def run_vae(vae, model, inputs):
    """The encoding (the host takes the mode), what the UNet is given of it, and the decoding."""
    latent = vae.encode(inputs["pixels"])
    given = model.model.process_latent_in(latent)
    return {"encoded": latent, "given": given, "decoded": vae.decode(inputs["codes"])}


def run_blora(model, inputs):
    """The fused MODEL's predictions, and what three steps of training on MODEL give, weights compared after it."""
    fusion, files = part("rechar_core.lora.fusion"), part("rechar_core.lora.files")
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    both = files.read(FOLDER / "both.safetensors")
    fused = part("nodes.host.patch").patch_model(model, fusion.fuse(both, both, 0.7, 1.2))
    found = {f"fused_{name}": tensor for name, tensor in run_unet(fused, inputs).items()}
    found |= run_training(model, inputs)
    comfy.model_management.unload_all_models()
    after = model.model.state_dict()
    found["changed"] = torch.tensor(sum(not torch.equal(after[name], before[name]) for name in before))
    return found


def run_training(model, inputs):
    """Losses and weights of a short run through the host's denoiser, with and without checkpointing."""
    host, found = part("nodes.host.denoiser"), {}
    training = part("rechar_core.training.loop").Training
    values = part("rechar_core.training.denoiser")
    recipe = part("rechar_core.training.recipe").TrainingRecipe(rank=4, steps=3, learning_rate=1e-2)
    size = torch.tensor([[192.0, 256.0, 0.0, 0.0, 192.0, 256.0]])
    for name, mode in (("trained", "fast"), ("checkpointed", "normal")):
        with host.trainable(model) as denoiser:
            moments = values.LatentMoments(
                inputs["latent"].clone(), torch.full_like(inputs["latent"], 0.1).clone()
            )
            conditioning = host.ordinary(
                values.Conditioning(inputs["context"], inputs["pooled"], size), denoiser.device
            )
            run = training(denoiser, [moments], conditioning, recipe)
            for _ in part("rechar_core.training.run").TrainingRun([run], mode).steps():
                pass
            found[f"{name}.losses"] = torch.tensor(run.loss_values())
            found |= {f"{name}.{path}": pair.delta() for path, pair in run.blora().pairs.items()}
    return found


def plain(tensors):
    """Tensors that a file can hold: fp32, contiguous, sharing nothing."""
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in tensors.items()}


def shared(host):
    """Two calls share their weights, not their patches."""
    first, second = host.shared_demo(), host.shared_demo()
    first[0].add_patches({"diffusion_model.out.2.bias": ("diff", (torch.ones(4),))}, 1.0)
    first[1].add_patches(
        {"clip_l.transformer.text_model.final_layer_norm.bias": ("diff", (torch.ones(64),))}, 1.0
    )
    return {
        "one_set_of_weights": first[0].model is second[0].model and first[2] is second[2],
        "patches": [len(part.patches) for made in (first, second) for part in (made[0], made[1].patcher)],
    }


def precisions(model, clip, vae):
    modules = (model.model, clip.cond_stage_model, vae.first_stage_model)
    return sorted({str(tensor.dtype) for module in modules for tensor in module.parameters()})


def main():
    logging.basicConfig(level=logging.INFO, force=True)
    host = part("nodes.host.demo_model")
    inputs, config = (
        load_file(FOLDER / "inputs.safetensors"),
        json.loads((FOLDER / "config.json").read_text()),
    )
    state = {name[6:]: tensor for name, tensor in inputs.items() if name.startswith("state.")}
    with torch.inference_mode():  # as in a node
        model, clip, vae = host.load_demo(state, config) if state else host.shared_demo()
        found = run_unet(model, inputs) | run_vae(vae, model, inputs) | run_clip(clip, config["prompts"])
        found |= run_blora(model, inputs)
        save_file(plain(found), FOLDER / "outputs.safetensors")
        about = {} if state else shared(host)
    about |= {"type": model.model.model_type.name, "factor": model.model.latent_format.scale_factor}
    about |= {"precisions": precisions(model, clip, vae)}
    (FOLDER / "about.json").write_text(json.dumps(about))


main()
