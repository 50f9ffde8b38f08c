"""A mixture of experts: many feed-forwards in the place of one, of which each token passes those its router chooses.

A model of E experts has nearly E times the parameters and costs a token what k of them cost. Two rules to choose by:
Switch Transformer's (Fedus et al. 2021, section 2), one expert whose output the router's probability multiplies; and
Mixtral's (Jiang et al. 2024, section 2.1), two whose probabilities are renormalised to sum to 1.

Letters: B batch, T query length, C width, F feed-forward width, N tokens in all, E experts, k experts of a token,
M places taken in all, at most N k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelwright.model.config import Routing
from modelwright.model.kernels import compute_dtype


@dataclass(frozen=True)
class Rows:
    """What experts are told of rows beside their vectors.

    segment (B, T): padding is 0; it passes no expert. apart: many texts share a row, and none may take another's place
    in an expert, so capacity is not counted. traffic: where each layer leaves what its router did, if anyone asks.
    """

    segment: Tensor | None = None
    apart: bool = False
    traffic: list[Traffic] | None = None


@dataclass(frozen=True)
class Traffic:
    """What one router did with one batch, padding left out.

    share (E): of all choices, those that fell on each expert; no gradient. probability (E): the router's mean, with
    its gradient. dropped (): the share of choices that found no place.
    """

    share: Tensor
    probability: Tensor
    dropped: Tensor

    @property
    def balance(self) -> Tensor:
        """E sum_e share_e probability_e: 1 where all is even, E where one expert has all (Fedus et al. 2021, eq. 4)."""
        return len(self.share) * (self.share * self.probability).sum()

    @property
    def load(self) -> Tensor:
        """Of the busiest expert, as a multiple of an even share."""
        return len(self.share) * self.share.max()


class Experts(nn.Module):
    """E feed-forwards, gated or not, without biases. Their weights are stacks: gate and up (E, F, C), down (E, C, F).

    Tokens are sorted by expert, so that each expert's are one slice and its products are of whole matrices. The router
    computes in float32, whatever the rest does (Fedus et al. 2021, section 2.4).
    """

    def __init__(self, cfg: Routing, width: int, ffn: int, act: Callable[[Tensor], Tensor], gated: bool):
        super().__init__()
        self.cfg, self.act = cfg, act
        self.router = nn.Linear(width, cfg.count, bias=False)
        self.gate = nn.Parameter(torch.empty(cfg.count, ffn, width)) if gated else None
        self.up = nn.Parameter(torch.empty(cfg.count, ffn, width))
        self.down = nn.Parameter(torch.empty(cfg.count, width, ffn))
        for stack in self.parameters():  # fresh as linear layers are; `initialise` draws anew
            nn.init.uniform_(stack, -(stack.size(-1) ** -0.5), stack.size(-1) ** -0.5)

    def forward(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C), 0 where a token was dropped or is padding."""
        weight, chosen = self.route(x, rows or Rows())
        return self.grouped(x.flatten(0, 1), weight.flatten(0, 1), chosen.flatten(0, 1)).view(x.shape)

    # -- who goes where

    def route(self, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """x (B, T, C) -> weights (B, T, k) float32 and experts (B, T, k), which are E where a token passes none."""
        probability = self.probabilities(x)
        weight, chosen = probability.topk(self.cfg.top)
        if self.cfg.normalised:
            weight = weight / weight.sum(-1, keepdim=True)
        kept = self.kept(chosen, rows)
        if rows.traffic is not None:
            rows.traffic.append(self.traffic(probability, chosen, kept, rows.segment))
        return weight, chosen if kept is None else chosen.masked_fill(~kept, self.cfg.count)

    def probabilities(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, E) float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.training and self.cfg.jitter:
                x = x * torch.empty_like(x).uniform_(1 - self.cfg.jitter, 1 + self.cfg.jitter)
            return F.linear(x, self.router.weight.float()).softmax(-1)

    def kept(self, chosen: Tensor, rows: Rows) -> Tensor | None:
        """Which choices (B, T, k) find a place: none of padding, and of each row the first that an expert has room for;
        of each text of it, where the capacity holds in use too. None: all do.
        """
        real = None if rows.segment is None else (rows.segment > 0)[..., None].expand_as(chosen)
        room = None if rows.apart else self.room(chosen, real)
        if room is None:
            return real
        choice = F.one_hot(chosen.flatten(1), self.cfg.count)  # (B, T k, E)
        if real is not None:
            choice = choice * real.flatten(1)[..., None]
        counted = choice.cumsum(1)  # (B, T k, E)
        if rows.segment is not None and self.cfg.capacity is not None:
            counted = counted - before_text(counted - choice, rows.segment)
        place = (counted * choice).sum(-1)  # (B, T k), from 1 on; 0 for padding
        return ((place > 0) & (place <= room)).view(chosen.shape)

    def room(self, chosen: Tensor, real: Tensor | None) -> Tensor | int | None:
        """How many places each expert has in a row, for all rows or (B, 1); None: as many as are asked for."""
        if self.cfg.capacity is not None or self.cfg.capacity_factor is None or not self.training:
            return self.cfg.capacity
        asked = chosen[0].numel() if real is None else real.flatten(1).sum(1, keepdim=True)
        return torch.as_tensor(self.cfg.capacity_factor * asked / self.cfg.count).ceil()

    def traffic(self, probability: Tensor, chosen: Tensor, kept: Tensor | None, segment: Tensor | None) -> Traffic:
        real = torch.ones_like(chosen[..., 0]) if segment is None else segment > 0  # (B, T)
        tokens = real.sum().clamp(min=1)
        each = (real[..., None] * torch.ones_like(chosen)).flatten().float()  # (N k)
        share = torch.zeros_like(probability[0, 0]).index_add_(0, chosen.flatten(), each)
        passed = each.sum() if kept is None else kept.sum()
        mean = (probability * real[..., None]).sum((0, 1)) / tokens
        choices = tokens * self.cfg.top
        return Traffic(share / choices, mean, (1 - passed / choices).clamp(min=0).detach())

    # -- what they make of it

    def grouped(self, x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
        """x (N, C), weight and chosen (N, k) -> (N, C): each expert's tokens as one slice."""
        order = chosen.flatten().argsort(stable=True)  # (N k), expert by expert; who passes none stands last
        counts = chosen.flatten().bincount(minlength=self.cfg.count + 1).tolist()[: self.cfg.count]
        order = order[: sum(counts)]  # (M)
        token, expert = order // self.cfg.top, self.experts()
        slices = torch.split(x.index_select(0, token), counts)
        y = torch.cat([x[:0], *(evened(expert, e, part) for e, part in enumerate(slices) if len(part))])  # (M, C)
        y = y * weight.flatten().index_select(0, order).to(y.dtype)[:, None]
        return torch.zeros_like(x, dtype=y.dtype).index_add(0, token, y)

    def experts(self) -> Callable[[int, Tensor], Tensor]:
        """What expert e makes of its tokens: (e, (n, C)) -> (n, C)."""
        # Unbound once, the stacks get their gradient as one; taken expert by expert, each would bring E matrices of 0.
        learning = torch.is_grad_enabled()
        stacks: list[Any] = [s.unbind() if learning and s is not None else s for s in (self.gate, self.up, self.down)]
        gate, up, down = stacks

        def expert(e: int, x: Tensor) -> Tensor:
            y = self.act(F.linear(x, up[e])) if gate is None else self.act(F.linear(x, gate[e])) * F.linear(x, up[e])
            return F.linear(y, down[e])

        return expert

    def one_by_one(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        """The definition, a loop over tokens and their experts: what `forward` must equal."""
        weight, chosen = (each.flatten(0, 1) for each in self.route(x, rows or Rows()))
        tokens, expert = x.flatten(0, 1), self.experts()
        out = [torch.zeros_like(tokens[0])] * len(tokens)
        for n, (weights, experts) in enumerate(zip(weight, chosen.tolist(), strict=True)):
            for w, e in zip(weights, experts, strict=True):
                if e < self.cfg.count:
                    out[n] = out[n] + w * expert(e, tokens[n])
        return torch.stack(out).view(x.shape)


def evened(expert: Callable[[int, Tensor], Tensor], e: int, x: Tensor) -> Tensor:
    """expert(e, x), x (n, C); in 16 bits with rows of zeros behind, so that one of few sizes is multiplied.

    A product in bfloat16 keeps what it prepared for its size (oneDNN's primitive cache), and each step brings each
    expert another n. There are eight sizes to each doubling.
    """
    if compute_dtype(x).itemsize > 2:
        return expert(e, x)
    grain = 1 << max(0, (len(x) - 1).bit_length() - 4)
    return expert(e, F.pad(x, (0, 0, 0, -len(x) % grain)))[: len(x)]


def before_text(counted: Tensor, segment: Tensor) -> Tensor:
    """Of what was counted before each choice, (B, T k, E), that which was before its text; segment (B, T)."""
    text = segment.repeat_interleave(counted.size(1) // segment.size(1), 1)  # (B, T k)
    begins = F.pad(text[:, 1:] != text[:, :-1], (1, 0), value=True)
    first = torch.where(begins, torch.arange(text.size(1), device=text.device), 0).cummax(1).values
    return counted.gather(1, first[..., None].expand_as(counted))
