"""Where tokens stand: rotations, sines, slopes and learned biases of distances.

Letters: B batch, T query length, S key length, C width, H heads, D head width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelwright.model.config import Relative, Rope


def rope_frequencies(cfg: Rope, head: int, device: torch.device) -> Tensor:
    """Radians per position of each of the D/2 pairs of features, fastest first."""
    freq = cfg.base ** (-torch.arange(0, head, 2, device=device, dtype=torch.float32) / head) / cfg.stretch  # (D/2)
    if (s := cfg.scaling) is None:
        return freq
    turns = s.original * freq / (2 * math.pi)  # how often each pair turned within the original context
    keep = ((turns - s.low) / (s.high - s.low)).clamp(0, 1)  # 1: fast, left alone; 0: slow, stretched
    return freq * (keep + (1 - keep) / s.factor)


def sinusoids(pos: Tensor, width: int) -> Tensor:
    """The sines of C/2 wavelengths, and then their cosines: pos (B, T) -> (B, T, C) float32.

    sin(pos / 10000^(2i/C)) and cos of the same (Vaswani et al. 2017, section 3.5), who write them in turns; this is the
    order of their code, and of Marian's checkpoints.
    """
    angle = pos[..., None].float() * rope_frequencies(Rope(), width, pos.device)  # (B, T, C/2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def alibi_slopes(heads: int, device: torch.device | None = None) -> Tensor:
    """2^(-8/H), 2^(-16/H), ...: how fast each head's scores fall with distance (Press et al. 2022, section 3), (H).

    Where H is no power of 2, those of the next smaller power and then every second one of the next larger, as in the
    authors' code and in BLOOM.
    """
    whole = 2 ** math.floor(math.log2(heads))
    powers = [8 * (i + 1) / whole for i in range(whole)]
    powers += [4 * (2 * i + 1) / whole for i in range(heads - whole)]
    return torch.tensor([2.0**-power for power in powers], device=device)


def relative_bucket(gap: Tensor, cfg: Relative, causal: bool) -> Tensor:
    """The bucket of key position minus query position: exact when near, logarithmic when far, one for all beyond."""
    buckets, offset = cfg.buckets, torch.zeros_like(gap)
    if causal:
        gap = -gap.clamp(max=0)
    else:
        buckets //= 2
        offset, gap = (gap > 0) * buckets, gap.abs()
    exact = buckets // 2
    far = torch.log(gap.clamp(min=1).float() / exact) / math.log(cfg.distance / exact) * (buckets - exact)
    return offset + torch.where(gap < exact, gap, (exact + far.long()).clamp(max=buckets - 1))


class RelativeBias(nn.Module):
    """One learned number per bucket of distance and head, added to the attention scores of every layer."""

    def __init__(self, cfg: Relative, heads: int, causal: bool):
        super().__init__()
        self.cfg, self.causal = cfg, causal
        self.weight = nn.Parameter(torch.zeros(cfg.buckets, heads))

    def forward(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """q_pos (B, T), k_pos (B, S) -> (B, H, T, S)."""
        gap = k_pos[:, None, :] - q_pos[:, :, None]  # (B, T, S)
        return F.embedding(relative_bucket(gap, self.cfg, self.causal), self.weight).permute(0, 3, 1, 2)
