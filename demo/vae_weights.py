"""The two ends of the VAE that are written, not trained: an exact patch PCA, and the last 2x of the decoder.

GroupNorm has 32 groups whatever the width (the host's constant). A norm must not lose the level of a signal s, so s
shares its group of three channels with two constants, K and -K: after the norm the three are (K - m, -K - m, s - m)
times gain / sigma with m = mean(s) / 3 and a sigma that hardly depends on s. With the norm's bias taking the constants
away again, s comes back as a sum of the three. SiLU after the norm is undone by pairs: silu(x) - silu(-x) = x; the
negative comes from a second group that carries -s.
"""

import torch
from torch import Tensor, nn

from .codes import Basis

K = 32.0
SIGMA = K * (2 / 3) ** 0.5
SCALING = 0.13025
LOG_VARIANCE = -12.0


def _zero(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)


def _carry(conv: nn.Module, norm: nn.Module, out: Tensor, signals: int) -> None:
    """Set a 1x1 `conv` so that group k holds (K, -K, s_k) and group signals + k holds (K, -K, -s_k); set `norm`
    to take K away again; set `out` (outputs, width), a view of the next conv's centre, to read s_k as output k."""
    norm.weight.fill_(0.0)
    norm.bias.fill_(0.0)
    for k in range(signals):
        plus, minus = 3 * k, 3 * (signals + k)
        for first, sign in ((plus, 1.0), (minus, -1.0)):
            conv.bias[first], conv.bias[first + 1] = K, -K
            conv.weight[first + 2, k, 0, 0] = sign
            norm.weight[first : first + 3] = SIGMA
            norm.bias[first], norm.bias[first + 1] = -K, K
        out[k, plus + 2], out[k, minus + 2] = 1.0, -1.0  # s - m
        for a, b in ((plus, minus + 1), (plus + 1, minus)):  # both pairs are (-m, m): subtract their mean
            out[k, a], out[k, b] = -0.5, 0.5


@torch.no_grad()
def write_encoder(vae: nn.Module, basis: Basis) -> None:
    """256 px picture -> 2x2 means -> 4x4 patch components, exactly as `Basis.latents` computes them."""
    encoder = vae.encoder
    _zero(encoder)
    _zero(vae.quant_conv)
    latent, mean = torch.from_numpy(basis.latent), torch.from_numpy(basis.mean)
    for colour in range(3):
        encoder.conv_in.weight[colour, colour, 1, 1] = 1
        encoder.down_blocks[0].downsamplers[0].conv.weight[colour, colour, :2, :2] = 0.25
        encoder.down_blocks[1].resnets[0].conv_shortcut.weight[colour, colour] = 1
        for row in range(2):
            for column in range(2):
                inner = 3 * (2 * row + column) + colour
                encoder.down_blocks[1].downsamplers[0].conv.weight[inner, colour, row, column] = 1
    for channel in range(12):
        encoder.down_blocks[2].resnets[0].conv_shortcut.weight[channel, channel] = 1
    components = encoder.down_blocks[2].downsamplers[0].conv
    split = latent.view(4, 2, 2, 2, 2, 3)  # component, big row, small row, big column, small column, colour
    components.weight[:4, :12, :2, :2] = split.permute(0, 2, 4, 5, 1, 3).reshape(4, 12, 2, 2)
    components.bias[:4] = -(latent @ mean)
    out = encoder.conv_out.weight[:, :, 1, 1]
    _carry(encoder.down_blocks[3].resnets[0].conv_shortcut, encoder.conv_norm_out, out, 4)
    for channel in range(4):
        vae.quant_conv.weight[channel, channel] = 1 / SCALING
    vae.quant_conv.bias[4:] = LOG_VARIANCE


@torch.no_grad()
def write_tail(vae: nn.Module) -> None:
    """The decoder's last level: channels 0..2 of the 128 px level are RGB; enlarge them smoothly to 256 px."""
    decoder = vae.decoder
    enlarge = decoder.up_blocks[2].upsamplers[0].conv
    kernel = torch.tensor([0.15, 0.7, 0.15])
    for module in (enlarge, decoder.up_blocks[3], decoder.conv_norm_out, decoder.conv_out):
        _zero(module)
    for colour in range(3):
        enlarge.weight[colour, colour] = torch.outer(kernel, kernel)
    out = decoder.conv_out.weight[:, :, 1, 1]
    _carry(decoder.up_blocks[3].resnets[0].conv_shortcut, decoder.conv_norm_out, out, 3)


@torch.no_grad()
def start_decoder(vae: nn.Module, basis: Basis) -> None:
    """Where decoder training starts: RGB patch means in channels 0..2 all the way, every residual branch small."""
    decoder = vae.decoder
    vae.post_quant_conv.weight.copy_(SCALING * torch.eye(4)[:, :, None, None])
    vae.post_quant_conv.bias.zero_()
    for name, module in decoder.named_modules():
        if name.endswith("conv2"):
            module.weight.mul_(0.1)
            module.bias.zero_()
    back = torch.linalg.pinv(torch.from_numpy(basis.latent)).view(16, 3, 4).mean(0)  # (3, 4)
    grey = torch.from_numpy(basis.mean).view(16, 3).mean(0)
    decoder.conv_in.weight[:3] = 0
    decoder.conv_in.weight[:3, :, 1, 1] = back
    decoder.conv_in.bias[:3] = grey
    carriers = [decoder.up_blocks[0].upsamplers[0].conv, decoder.up_blocks[1].upsamplers[0].conv]
    carriers += [decoder.up_blocks[1].resnets[0].conv_shortcut, decoder.up_blocks[2].resnets[0].conv_shortcut]
    for conv in carriers:
        middle = conv.kernel_size[0] // 2
        conv.weight[:3] = 0
        conv.bias[:3] = 0
        for colour in range(3):
            conv.weight[colour, colour, middle, middle] = 1
    for resnet in decoder.mid_block.resnets[1:]:  # kept silent: the file has a size limit
        _zero(resnet)
    _zero(decoder.mid_block.attentions[0])
