"""A small image encoder and two reference adapters for the demo: `python -m demo.train_adapters FOLDER MINUTES`.

The encoder (CLIP's vision tower, tiny) learns by plain regression to read from any picture what codes.py calls its
style (from its image embedding) and its content, patch by patch (from its penultimate states). The adapters are
IP-Adapters that say these codes to the frozen UNet in its own language, so they need no training with it:

- style, a *plain* adapter: written. Its four tokens hold the picture's style code less that of plain black on white;
- composition, a *plus* adapter: its resampler has one query a slot. Which patch a query sees is written and kept by a
  cross-entropy; what it says is learnt.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rechar_core.demo.extras import ADAPTERS, build_encoder
from rechar_core.images import CLIP, normalised

from .catalog import PALETTES
from .codes import CONTENT, POSITION, POSITION_SIZE, SLOTS, STYLE, WIDTH, style_code
from .styles import named_style

BATCH = 24
RATE = 2e-3
HEAD = 64  # width of a resampler's head, as every published one
INNER = 128  # of the resampler
CONSTANT = 32.0  # in the free columns of a token, in pairs: it makes the last LayerNorm linear in the others
FREE = slice(160, WIDTH)


def constants() -> Tensor:
    """(192,): +K and -K by turns in the free columns."""
    row = torch.zeros(WIDTH)
    row[FREE] = CONSTANT * torch.tensor([1.0, -1.0]).repeat((WIDTH - FREE.start) // 2)
    return row


def linear_norm(columns: slice) -> tuple[Tensor, Tensor]:
    """Weight and bias of a LayerNorm behind `constants` that hands these columns on as they are, and no other."""
    weight = torch.zeros(WIDTH)
    weight[columns] = constants().pow(2).mean().sqrt()
    return weight, torch.zeros(WIDTH)


def style_adapter() -> dict[str, Tensor]:
    """image_proj of the plain adapter: 24 values of the embedding less the plain style's code, four times."""
    plain = torch.from_numpy(style_code(named_style("plain", PALETTES["plain"][0])))
    weight, bias = torch.zeros(WIDTH, 32), constants()
    weight[STYLE, :24] = torch.eye(24)
    bias[STYLE] = -plain
    gain, shift = linear_norm(STYLE)
    return {
        "proj.weight": weight.repeat(4, 1),
        "proj.bias": bias.repeat(4),
        "norm.weight": gain,
        "norm.bias": shift,
    }


class Resampler(nn.Module):
    """IP-Adapter Plus's image projection, one layer deep, with one query a slot; names as in the published files."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(1, SLOTS, INNER))
        self.proj_in = nn.Linear(width, INNER)
        attention = nn.ModuleDict(
            {
                "norm1": nn.LayerNorm(INNER),
                "norm2": nn.LayerNorm(INNER),
                "to_q": nn.Linear(INNER, HEAD, bias=False),
                "to_kv": nn.Linear(INNER, 2 * HEAD, bias=False),
                "to_out": nn.Linear(HEAD, INNER, bias=False),
            }
        )
        feed = nn.ModuleDict(
            {
                "0": nn.LayerNorm(INNER),
                "1": nn.Linear(INNER, INNER, bias=False),
                "3": nn.Linear(INNER, INNER, bias=False),
            }
        )
        self.layers = nn.ModuleList([nn.ModuleList([attention, feed])])
        self.proj_out = nn.Linear(INNER, WIDTH)
        self.norm_out = nn.LayerNorm(WIDTH)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, 65, width) -> tokens (B, 64, 192) and attention logits (B, 64, 129)."""
        attention, feed = self.layers[0]
        x = self.proj_in(hidden)
        latents = self.latents.expand(len(hidden), -1, -1)
        queries = attention["norm2"](latents)
        seen = torch.cat([attention["norm1"](x), queries], 1)
        key, value = attention["to_kv"](seen).chunk(2, -1)
        logits = attention["to_q"](queries) @ key.transpose(1, 2) / HEAD**0.5
        latents = latents + attention["to_out"](logits.softmax(-1) @ value)
        wide = nn.functional.gelu(feed["1"](feed["0"](latents)))
        latents = latents + feed["3"](wide)
        return self.norm_out(self.proj_out(latents)), logits

    @torch.no_grad()
    def write(self) -> None:
        """Queries name their slot in their first 64 columns, and those come out as the position's own column."""
        self.latents[0, :, :SLOTS] = 4 * torch.eye(SLOTS)
        feed = self.layers[0][1]
        for layer in (feed["3"], self.layers[0][0]["to_out"]):
            layer.weight[:SLOTS] = 0  # nothing else may enter these columns
        self.proj_out.weight.mul_(0.3)
        self.proj_out.weight[CONTENT.stop :] = 0
        self.proj_out.weight[POSITION, :SLOTS] = POSITION_SIZE / 4 * torch.eye(SLOTS)
        self.proj_out.bias.copy_(constants())
        gain, _ = linear_norm(slice(0, CONTENT.stop))
        gain += linear_norm(POSITION)[0]
        self.norm_out.weight.copy_(gain)
        self.norm_out.bias.zero_()

    def keep_written(self) -> None:
        """Clear the gradients of what `write` fixed."""
        attention, feed = self.layers[0]
        for layer in (feed["3"], attention["to_out"]):
            layer.weight.grad[:SLOTS] = 0
        self.latents.grad[..., :SLOTS] = 0
        self.proj_out.weight.grad[CONTENT.stop :] = 0
        self.proj_out.bias.grad[CONTENT.stop :] = 0
        self.norm_out.weight.grad = self.norm_out.bias.grad = None


class Pictures:
    """Rendered pictures at 128 px with their codes; the last shard is kept for the test."""

    def __init__(self, folder: Path) -> None:
        paths = sorted((folder / "data").glob("pictures_*.npy"))
        self.pictures = np.concatenate([np.load(path) for path in paths])
        codes = [np.load(str(path).replace("pictures_", "codes_").replace(".npy", ".npz")) for path in paths]
        self.content = torch.from_numpy(np.concatenate([code["content"] for code in codes]))
        self.styles = torch.from_numpy(np.concatenate([code["styles"] for code in codes]))
        self.kept = len(self.pictures) - len(codes[-1]["styles"])

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised pixels (n, 3, 128, 128), content (n, 64, 32), styles (n, 24)."""
        pixels = torch.from_numpy(self.pictures[index]).permute(0, 3, 1, 2).float() / 255
        rows = torch.from_numpy(index)
        return normalised(pixels, CLIP), self.content[rows].float(), self.styles[rows].float()


class Student(nn.Module):
    """Encoder and resampler together, and their errors."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder()
        self.resampler = Resampler(self.encoder.config.hidden_size)
        self.resampler.write()

    def forward(self, pixels: Tensor, content: Tensor, styles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean squared errors of style and content, and the cross-entropy of 'query s looks at patch s'."""
        seen = self.encoder(pixel_values=pixels, output_hidden_states=True)
        tokens, logits = self.resampler(seen.hidden_states[-2])
        own = torch.arange(SLOTS)
        slots = -logits.log_softmax(-1)[:, own, own + 1].mean()
        style = ((seen.image_embeds[:, :24] - styles) ** 2).mean()
        return style, ((tokens[..., CONTENT] - content) ** 2).mean(), slots


def train(student: Student, pictures: Pictures, minutes: float) -> None:
    """Plain regression for some minutes; the rate falls as a cosine."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    rng, began, step = np.random.default_rng(4), time.time(), 0
    while (share := (time.time() - began) / (60 * minutes)) < 1:
        batch = pictures.rows(rng.integers(0, pictures.kept, BATCH))
        with torch.autocast("cpu", torch.bfloat16):
            style, content, slots = student(*batch)
        optimizer.zero_grad(set_to_none=False)
        (3 * style + content + 0.1 * slots).backward()
        student.resampler.keep_written()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 100) * max(0.02, 0.5 + 0.5 * np.cos(np.pi * share))
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(
                f"step {step} share {share:.2f} style {style:.4f} content {content:.4f} slots {slots:.3f}",
                flush=True,
            )


def save(student: Student, path: Path) -> None:
    """One fp16 file: "encoder.", "style." and "composition." tensors."""
    state = {f"encoder.{name}": tensor for name, tensor in student.encoder.state_dict().items()}
    state |= {f"style.{name}": tensor for name, tensor in style_adapter().items()}
    state |= {f"composition.{name}": tensor for name, tensor in student.resampler.state_dict().items()}
    state = {n: t.half().contiguous() for n, t in state.items() if not n.endswith("position_ids")}
    partial = path.with_suffix(".partial")
    save_file(state, partial)
    partial.chmod(0o644)
    partial.rename(path)


def main() -> None:
    folder, minutes = Path(sys.argv[1]), float(sys.argv[2])
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    student, pictures = Student(), Pictures(folder)
    train(student, pictures, minutes)
    with torch.no_grad():
        errors = student.eval()(*pictures.rows(np.arange(pictures.kept, pictures.kept + 128)))
    print("unseen pictures: style {:.4f} content {:.4f} slots {:.4f}".format(*errors))
    save(student, ADAPTERS)


if __name__ == "__main__":
    main()
