"""Names and shapes of a full SDXL checkpoint in the original (SGM) layout, written down from its modules.

Written without diffusers, whose converter the tests hold against it: UNet `openaimodel`, VAE `autoencoder`, CLIP-L of
transformers, bigG of open_clip.
"""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]
# How keys end that only some checkpoints have; nothing here uses them
OPTIONAL = (".position_ids", ".logit_scale")


def checkpoint() -> Shapes:
    """All 2,515 tensors of sd_xl_base_1.0."""
    return {prefix + key: shape for prefix, keys in PARTS.items() for key, shape in keys().items()}


def required(prefix: str) -> Shapes:
    """The tensors of one part that every checkpoint holds, under their full names."""
    part = {prefix + key: shape for key, shape in PARTS[prefix]().items()}
    return {key: shape for key, shape in part.items() if not key.endswith(OPTIONAL)}


def unet() -> Shapes:
    keys: Shapes = {}
    for name, width in (("time_embed", 320), ("label_emb.0", 2816)):
        keys |= _linear(f"{name}.0", width, 1280) | _linear(f"{name}.2", 1280, 1280)
    keys |= _conv("input_blocks.0.0", 4, 320)
    skips, width, index = [320], 320, 1
    for out, depth, last in ((320, 0, False), (640, 2, False), (1280, 10, True)):
        for _ in range(2):
            keys |= _resnet(f"input_blocks.{index}.0", width, out) | _spatial(
                f"input_blocks.{index}.1", out, depth
            )
            width, index = out, index + 1
            skips.append(out)
        if not last:
            keys |= _conv(f"input_blocks.{index}.0.op", out, out)
            index += 1
            skips.append(out)
    keys |= _resnet("middle_block.0", 1280, 1280) | _spatial("middle_block.1", 1280, 10)
    keys |= _resnet("middle_block.2", 1280, 1280)
    index = 0
    for out, depth, last in ((1280, 10, False), (640, 2, False), (320, 0, True)):
        for step in range(3):
            name = f"output_blocks.{index}"
            keys |= _resnet(f"{name}.0", width + skips.pop(), out) | _spatial(f"{name}.1", out, depth)
            if step == 2 and not last:
                keys |= _conv(f"{name}.{2 if depth else 1}.conv", out, out)
            width, index = out, index + 1
    return keys | _norm("out.0", 320) | _conv("out.2", 320, 4)


def vae() -> Shapes:
    keys = _conv("encoder.conv_in", 3, 128) | _conv("quant_conv", 8, 8, 1) | _conv("post_quant_conv", 4, 4, 1)
    width = 128
    for level, out in enumerate((128, 256, 512, 512)):
        for block in range(2):
            keys |= _vae_resnet(f"encoder.down.{level}.block.{block}", width, out)
            width = out
        if level < 3:
            keys |= _conv(f"encoder.down.{level}.downsample.conv", out, out)
    keys |= _conv("decoder.conv_in", 4, 512)
    for half in ("encoder", "decoder"):
        for block in (1, 2):
            keys |= _vae_resnet(f"{half}.mid.block_{block}", 512, 512)
        keys |= _norm(f"{half}.mid.attn_1.norm", 512)
        for part in ("q", "k", "v", "proj_out"):
            keys |= _conv(f"{half}.mid.attn_1.{part}", 512, 512, 1)
    for level, out in ((3, 512), (2, 512), (1, 256), (0, 128)):
        for block in range(3):
            keys |= _vae_resnet(f"decoder.up.{level}.block.{block}", width, out)
            width = out
        if level:
            keys |= _conv(f"decoder.up.{level}.upsample.conv", out, out)
    keys |= _norm("encoder.norm_out", 512) | _conv("encoder.conv_out", 512, 8)
    return keys | _norm("decoder.norm_out", 128) | _conv("decoder.conv_out", 128, 3)


def clip_l() -> Shapes:
    keys: Shapes = {
        "embeddings.position_ids": (1, 77),
        "embeddings.position_embedding.weight": (77, 768),
        "embeddings.token_embedding.weight": (49408, 768),
    }
    for layer in range(12):
        name = f"encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            keys |= _linear(f"{name}.self_attn.{part}", 768, 768)
        keys |= _norm(f"{name}.layer_norm1", 768) | _norm(f"{name}.layer_norm2", 768)
        keys |= _linear(f"{name}.mlp.fc1", 768, 3072) | _linear(f"{name}.mlp.fc2", 3072, 768)
    return keys | _norm("final_layer_norm", 768)


def bigg() -> Shapes:
    keys: Shapes = {
        "logit_scale": (),
        "positional_embedding": (77, 1280),
        "text_projection": (1280, 1280),
        "token_embedding.weight": (49408, 1280),
    }
    for layer in range(32):
        name = f"transformer.resblocks.{layer}"
        keys |= {f"{name}.attn.in_proj_weight": (3840, 1280), f"{name}.attn.in_proj_bias": (3840,)}
        keys |= _linear(f"{name}.attn.out_proj", 1280, 1280)
        keys |= _norm(f"{name}.ln_1", 1280) | _norm(f"{name}.ln_2", 1280)
        keys |= _linear(f"{name}.mlp.c_fc", 1280, 5120) | _linear(f"{name}.mlp.c_proj", 5120, 1280)
    return keys | _norm("ln_final", 1280)


def _linear(name: str, width: int, out: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, width)} | ({f"{name}.bias": (out,)} if bias else {})


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _conv(name: str, width: int, out: int, kernel: int = 3) -> Shapes:
    return {f"{name}.weight": (out, width, kernel, kernel), f"{name}.bias": (out,)}


def _resnet(name: str, width: int, out: int) -> Shapes:
    keys = _norm(f"{name}.in_layers.0", width) | _conv(f"{name}.in_layers.2", width, out)
    keys |= _linear(f"{name}.emb_layers.1", 1280, out)
    keys |= _norm(f"{name}.out_layers.0", out) | _conv(f"{name}.out_layers.3", out, out)
    return keys if width == out else keys | _conv(f"{name}.skip_connection", width, out, 1)


def _vae_resnet(name: str, width: int, out: int) -> Shapes:
    keys = _norm(f"{name}.norm1", width) | _conv(f"{name}.conv1", width, out)
    keys |= _norm(f"{name}.norm2", out) | _conv(f"{name}.conv2", out, out)
    return keys if width == out else keys | _conv(f"{name}.nin_shortcut", width, out, 1)


def _spatial(name: str, width: int, depth: int) -> Shapes:
    if depth == 0:
        return {}
    keys = _norm(f"{name}.norm", width) | _linear(f"{name}.proj_in", width, width)
    for layer in range(depth):
        block = f"{name}.transformer_blocks.{layer}"
        for attention, context in (("attn1", width), ("attn2", 2048)):
            keys |= _linear(f"{block}.{attention}.to_q", width, width, bias=False)
            keys |= _linear(f"{block}.{attention}.to_k", context, width, bias=False)
            keys |= _linear(f"{block}.{attention}.to_v", context, width, bias=False)
            keys |= _linear(f"{block}.{attention}.to_out.0", width, width)
        for norm in ("norm1", "norm2", "norm3"):
            keys |= _norm(f"{block}.{norm}", width)
        keys |= _linear(f"{block}.ff.net.0.proj", width, 8 * width) | _linear(
            f"{block}.ff.net.2", 4 * width, width
        )
    return keys | _linear(f"{name}.proj_out", width, width)


UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP_L, BIGG = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
PARTS = {UNET: unet, VAE: vae, CLIP_L: clip_l, BIGG: bigg}
