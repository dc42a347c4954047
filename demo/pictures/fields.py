"""Random fields and image operations that the materials are made of. Fields are (batch, 1, h, w) unless said."""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

SIZE = 256


class Source:
    """Random numbers for a batch of pictures on one device; every draw differs from picture to picture."""

    def __init__(self, seed: int, batch: int, device: torch.device | str = "cpu", size: int = SIZE) -> None:
        self.batch, self.size, self.device = batch, size, torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.host = torch.Generator().manual_seed(seed)

    def uniform(self, low: float = 0.0, high: float = 1.0, channels: int = 1) -> Tensor:
        """(batch, channels, 1, 1)."""
        shape = (self.batch, channels, 1, 1)
        return low + (high - low) * torch.rand(shape, generator=self.generator, device=self.device)

    def log_uniform(self, low: float, high: float) -> Tensor:
        """(batch, 1, 1, 1), uniform in its logarithm."""
        return self.uniform(math.log(low), math.log(high)).exp()

    def chance(self, probability: float) -> Tensor:
        """(batch, 1, 1, 1) of 0 and 1."""
        return (self.uniform() < probability).float()

    def angle(self) -> Tensor:
        """(batch, 1, 1, 1) in 0..2 pi."""
        return self.uniform(0, 2 * math.pi)

    def whole(self, low: int, high: int) -> int:
        """One whole number for the whole batch, low to high - 1."""
        return int(torch.randint(low, high, (1,), generator=self.host))

    def white(self, channels: int = 1) -> Tensor:
        """(batch, channels, size, size), normal."""
        shape = (self.batch, channels, self.size, self.size)
        return torch.randn(shape, generator=self.generator, device=self.device)

    def cells(self, count: int, channels: int) -> Tensor:
        """(batch, channels, count, count), uniform in 0..1."""
        shape = (self.batch, channels, count, count)
        return torch.rand(shape, generator=self.generator, device=self.device)

    def noise(
        self,
        scale: Tensor | float,
        slope: float = 2.0,
        stretch: Tensor | float = 1.0,
        angle: Tensor | float = 0.0,
    ) -> Tensor:
        """Noise of mean 0 and deviation 1 whose largest features are about `scale` px.

        Its amplitude falls with frequency to the power -slope above 1 / scale; features are `stretch` times longer
        along `angle`.
        """
        across, down = frequencies(self.size, self.device)
        cos, sin = _cos_sin(angle)
        along, over = (across * cos + down * sin) * stretch, down * cos - across * sin
        gain = (1 + (along**2 + over**2) * scale**2).pow(-slope / 2)
        spectrum = torch.fft.rfft2(self.white()) * gain
        spectrum[..., 0, 0] = 0
        field = torch.fft.irfft2(spectrum, s=(self.size, self.size))
        return field / (field.std((2, 3), keepdim=True) + 1e-6)


def _cos_sin(angle: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
    return (angle.cos(), angle.sin()) if isinstance(angle, Tensor) else (math.cos(angle), math.sin(angle))


@lru_cache(maxsize=4)
def frequencies(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Angular frequencies per pixel (1, 1, size, size / 2 + 1), across and down."""
    across = 2 * math.pi * torch.fft.rfftfreq(size, device=device)
    down = 2 * math.pi * torch.fft.fftfreq(size, device=device)
    return across.expand(1, 1, size, -1), down[:, None].expand(1, 1, -1, size // 2 + 1)


@lru_cache(maxsize=4)
def grid(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel coordinates (1, 1, size, size): across and down."""
    line = torch.arange(size, device=device, dtype=torch.float32) + 0.5
    return line.expand(1, 1, size, size), line[:, None].expand(1, 1, size, size)


def blur(image: Tensor, sigma: Tensor | float) -> Tensor:
    """Gaussian blur (periodic), any channels; sigma in px, a number or (batch, 1, 1, 1)."""
    size = image.shape[-1]
    across, down = frequencies(size, image.device)
    gain = torch.exp(-(across**2 + down**2) * sigma**2 / 2)
    return torch.fft.irfft2(torch.fft.rfft2(image) * gain, s=(size, size))


def slopes(height: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences across and down, in units a pixel."""
    padded = nn.functional.pad(height, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    return across, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2


def shade(height: Tensor, light: Tensor, shininess: Tensor | float = 20.0) -> tuple[Tensor, Tensor]:
    """Diffuse (1 = as a flat surface) and specular light on a height map in px; light: (batch, 3, 1, 1), unit."""
    across, down = slopes(height)
    length = (across**2 + down**2 + 1).sqrt()
    lx, ly, lz = light.unbind(1)
    facing = (-across * lx[:, None] - down * ly[:, None] + lz[:, None]) / length
    half = light + torch.tensor([0, 0, 1.0], device=light.device).view(1, 3, 1, 1)
    hx, hy, hz = (half / half.norm(dim=1, keepdim=True)).unbind(1)
    mirror = (-across * hx[:, None] - down * hy[:, None] + hz[:, None]) / length
    return facing.clamp(min=0) / lz[:, None], mirror.clamp(min=0) ** shininess


def step(value: Tensor, edge: Tensor | float = 0.0, width: Tensor | float = 1.0) -> Tensor:
    """0 below the edge, 1 above, smooth over `width`."""
    t = ((value - edge) / width + 0.5).clamp(0, 1)
    return t * t * (3 - 2 * t)


def mix(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """low where share is 0, high where it is 1."""
    return low + (high - low) * share


def moved(image: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """The image sampled at (x + across, y + down), in px; the offsets broadcast over (batch, 1, h, w)."""
    size = image.shape[-1]
    x, y = grid(size, image.device)
    where = torch.cat(
        [(x + across).expand(len(image), 1, size, size), (y + down).expand(len(image), 1, size, size)], 1
    )
    where = 2 * where / size - 1
    return nn.functional.grid_sample(
        image, where.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=False
    )


def voronoi(
    source: Source, cell: int, jitter: float = 0.9, warp: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of about `cell` px: distance to the nearest and to the second point (px), and three random numbers a cell.

    warp: offsets in px at which the pattern is looked up.
    """
    size, count = source.size, max(2, round(source.size / cell))
    side = size / count
    table = source.cells(count, 5).flatten(2)  # jitter across, jitter down, three numbers
    x, y = grid(size, source.device)
    if warp is not None:
        x, y = x + warp[0], y + warp[1]
    column, row = (x / side).floor(), (y / side).floor()
    first = torch.full((source.batch, 1, size, size), 1e9, device=source.device)
    second, numbers = first.clone(), first.expand(-1, 3, -1, -1).clone()
    for right in (-1, 0, 1):
        for below in (-1, 0, 1):
            c, r = column + right, row + below
            index = (
                (r.remainder(count) * count + c.remainder(count)).long().expand(source.batch, 1, size, size)
            )
            found = table.gather(2, index.reshape(source.batch, 1, -1).expand(-1, 5, -1)).view(
                source.batch, 5, size, size
            )
            px = (c + 0.5 + jitter * (found[:, :1] - 0.5)) * side
            py = (r + 0.5 + jitter * (found[:, 1:2] - 0.5)) * side
            far = ((px - x) ** 2 + (py - y) ** 2).sqrt()
            nearer = far < first
            second = torch.where(nearer, first, torch.minimum(second, far))
            numbers = torch.where(nearer, found[:, 2:], numbers)
            first = torch.minimum(first, far)
    return first, second, numbers


def strands(source: Source, angle: Tensor, width: float, length: float, kinds: int = 6) -> Tensor:
    """Noise of mean 0, deviation about 1, drawn out along a direction that differs from pixel to pixel.

    angle: (batch, 1, h, w) in radians, a direction without sense; width and length in px.
    """
    total = weight = 0.0
    for kind in range(kinds):
        direction = math.pi * kind / kinds
        near = (angle - direction).cos() ** 2
        share = near ** (2 * kinds)
        total = total + share * source.noise(width, 2.5, length / width, direction)
        weight = weight + share**2
    return total / (weight + 1e-6) ** 0.5


def thickness(distance: Tensor, reach: int = 17) -> Tensor:
    """Half of the stroke's width round each pixel, in px, at least 1: the largest distance to the edge nearby."""
    peak = nn.functional.max_pool2d(distance, reach, 1, reach // 2)
    return blur(peak, 3.0).clamp(min=1.0)


def dome(distance: Tensor, radius: Tensor | float) -> Tensor:
    """Height 0..1 of a round cushion over the inside: a quarter circle up from the edge over `radius` px."""
    t = (distance / radius).clamp(0, 1)
    return (1 - (1 - t) ** 2).clamp(min=1e-6).sqrt() * (distance > 0)
