"""SDXL's noise schedule."""

import torch
from torch import Tensor


def alphas_cumprod() -> Tensor:
    """(1000,): the share of signal power at each time; scaled-linear betas from 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()
