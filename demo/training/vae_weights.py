"""The parts of the VAE that are written, not trained: the encoder (`latents.Basis`) and the decoder's colour path.

GroupNorm has 32 groups whatever the width (the host's constant), and a norm must not lose the level of a signal s. So s
shares its group with two constants K and -K: after the norm the three are (s - m, K - m, -K - m) / sigma with
m = mean(s) / 3 and a sigma that hardly depends on s; s is the first less the mean of the other two. SiLU is passed in
its linear part: the norm's bias lifts every value to about LIFT.
"""

import torch
from torch import Tensor, nn

from .latents import Basis, patch_kernel

SCALING = 0.13025
LOG_VARIANCE = -12.0
LEVEL0, THIN = 96, 36  # channels at full size: as declared, and as trained (the rest is zero)
LEVELS = (LEVEL0, 32, 64, 128)


def zero(module: nn.Module) -> None:
    """All weights zero, norms at rest."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)


def carry(conv: nn.Module, norm: nn.Module, out: Tensor, constant: float, lift: float) -> Tensor:
    """Carry signals 0 .. n-1 = len(out) through a norm and a SiLU, signal k in group k.

    conv: 1x1, gives each group (s_k, K, -K, 0...); norm: GroupNorm behind it; out: (n, width), a view of the next
    convolution's centre. Returns the (n,) bias that the next convolution needs.
    """
    width = norm.num_channels // norm.num_groups
    sigma = constant * (2 / width) ** 0.5
    bias = torch.zeros(len(out))
    for k in range(len(out)):
        first = k * width
        conv.bias[first + 1], conv.bias[first + 2] = constant, -constant
        conv.weight[first] = 0
        conv.weight[first, k, 0, 0] = 1.0
        norm.weight[first : first + width] = sigma
        norm.bias[first], norm.bias[first + 1], norm.bias[first + 2] = lift, lift - constant, lift + constant
        out[k, first], out[k, first + 1], out[k, first + 2] = 1.0, -0.5, -0.5
        bias[k] = 0.0  # the lifts cancel: 1 - 0.5 - 0.5
    return bias


@torch.no_grad()
def write_encoder(vae: nn.Module, basis: Basis) -> None:
    """256 px picture -> 2x2 -> 4x4 (32 components) -> 8x8 (the latents), exactly as `Basis.latents` computes them."""
    encoder, channels = vae.encoder, basis.channels
    zero(encoder)
    zero(vae.quant_conv)
    for colour in range(3):
        encoder.conv_in.weight[colour, colour, 1, 1] = 1
    first_down = encoder.down_blocks[0].downsamplers[0].conv
    for row in range(2):
        for column in range(2):
            for colour in range(3):
                first_down.weight[3 * (2 * row + column) + colour, colour, row, column] = 1
    for channel in range(12):
        encoder.down_blocks[1].resnets[0].conv_shortcut.weight[channel, channel] = 1
    second_down = encoder.down_blocks[1].downsamplers[0].conv
    split = basis.first.view(
        -1, 2, 2, 2, 2, 3
    )  # component, big row, small row, big column, small column, colour
    second_down.weight[:, :12, :2, :2] = split.permute(0, 2, 4, 5, 1, 3).reshape(-1, 12, 2, 2)
    second_down.bias.copy_(-(basis.first @ basis.mean))
    for channel in range(LEVELS[1]):
        encoder.down_blocks[2].resnets[0].conv_shortcut.weight[channel, channel] = 1
    third_down = encoder.down_blocks[2].downsamplers[0].conv
    third_down.weight[:channels, : LEVELS[1], :2, :2] = patch_kernel(basis.second, 2, LEVELS[1])
    out = encoder.conv_out.weight[:, :, 1, 1]
    carry(encoder.down_blocks[3].resnets[0].conv_shortcut, encoder.conv_norm_out, out[:channels], 64.0, 20.0)
    for channel in range(channels):
        vae.quant_conv.weight[channel, channel] = 1 / SCALING
    vae.quant_conv.bias[channels:] = LOG_VARIANCE


@torch.no_grad()
def start_decoder(vae: nn.Module, basis: Basis) -> None:
    """Where the decoder's training starts: patch means in channels 0..2 all the way, every residual branch small."""
    decoder = vae.decoder
    vae.post_quant_conv.weight.copy_(SCALING * torch.eye(basis.channels)[:, :, None, None])
    vae.post_quant_conv.bias.zero_()
    for name, module in decoder.named_modules():
        if name.endswith("conv2"):
            module.weight.mul_(0.1)
            module.bias.zero_()
    decoder.conv_in.weight[:3] = 0
    decoder.conv_in.weight[:3, :, 1, 1] = basis.back().mean((2, 3)).T
    decoder.conv_in.bias[:3] = basis.mean.view(16, 3).mean(0)
    for block in decoder.up_blocks[:3]:
        straight(block.upsamplers[0].conv)
    for block in decoder.up_blocks[1:3]:
        straight(block.resnets[0].conv_shortcut)
    decoder.conv_out.weight[:, :9] = 0  # what the colour path occupies
    decoder.conv_out.weight.mul_(0.3)
    decoder.conv_out.bias.zero_()
    norm = decoder.conv_norm_out
    carry(
        decoder.up_blocks[3].resnets[0].conv_shortcut, norm, decoder.conv_out.weight[:, :, 1, 1], 16.0, 20.0
    )
    for block in decoder.up_blocks[3].resnets:
        for constant in (1, 2, 4, 5, 7, 8):  # nothing may be added to the constants
            block.conv2.weight[constant] = 0
    silence_middle(vae)


@torch.no_grad()
def silence_middle(vae: nn.Module) -> None:
    """The middle's attention and second residual block stay zero: the file has a size limit."""
    for module in (*vae.decoder.mid_block.resnets[1:], vae.decoder.mid_block.attentions[0]):
        zero(module)


def straight(conv: nn.Module) -> None:
    """Channels 0..2 go through as they are."""
    middle = conv.kernel_size[0] // 2
    conv.weight[:3] = 0
    conv.bias[:3] = 0
    for colour in range(3):
        conv.weight[colour, colour, middle, middle] = 1


def thin_tail(width: int = THIN) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The decoder's last level with `width` channels: its block (two residual blocks), norm and last convolution."""
    from diffusers.models.resnet import ResnetBlock2D

    groups = width // 3

    def block(inputs: int, in_groups: int) -> nn.Module:
        return ResnetBlock2D(
            in_channels=inputs,
            out_channels=width,
            temb_channels=None,
            groups=in_groups,
            groups_out=groups,
            eps=1e-6,
        )

    resnets = nn.ModuleList([block(LEVELS[1], 32), block(width, groups)])
    return resnets, nn.GroupNorm(groups, width, eps=1e-6), nn.Conv2d(width, 3, 3, padding=1)


@torch.no_grad()
def widen(thin: dict[str, Tensor], whole: dict[str, Tensor]) -> dict[str, Tensor]:
    """Thin weights put into the first channels of the declared width; everything else zero, norms at rest."""
    found = {}
    for name, tensor in whole.items():
        if name not in thin or thin[name].shape == tensor.shape:
            found[name] = thin.get(name, tensor)
            continue
        fill = (
            torch.ones_like(tensor)
            if "norm" in name and name.endswith("weight")
            else torch.zeros_like(tensor)
        )
        fill[tuple(slice(0, size) for size in thin[name].shape)] = thin[name]
        found[name] = fill
    return found
