"""Give a model another head: the labels of a task in the place of the vocabulary, or a value beside it.

Letters: B batch, T tokens of a row, C width, L labels.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.model.transformer import Encoded, Head, Labels, Transformer


def relabel(model: Transformer, labels: Labels, generator: torch.Generator) -> Transformer:
    """A model of the same body, to the tensor, with a fresh head over `labels`: proj (L, C); for texts a pooler (C, C).

    proj is drawn from N(0, 0.02) as in BERT (Devlin et al. 2019), so that the first predictions are nearly even; the
    pooler as any other layer, from N(0, 1/C). `model` itself keeps its own head and is not changed.

    Raises ValueError for a model that is no encoder: no checkpoint format that we write holds labels for one.
    """
    if model.cfg.shape != "encoder":
        raise ValueError(
            f"labels are for an encoder, and this model is a {model.cfg.shape}: let it answer with the label as text"
        )
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    found = copy.deepcopy(model, shared)
    found.cfg = replace(model.cfg, labels=labels, tied=False, head_transform=False, head_bias=True, scale_logits=1.0)
    found.head = Head(found.cfg)
    with torch.no_grad():
        for name, p in found.head.named_parameters():
            spread = 0.02 if name == "proj.weight" else p.size(-1) ** -0.5
            p.zero_() if name.endswith("bias") else p.normal_(0.0, spread, generator=generator)
    found.head.to(model.embed.tokens.weight)
    return found.train(model.training)


class Scored(nn.Module):
    """A model that gives a number at each place, in the place of a distribution: a reward model.

    The head is drawn from N(0, 1 / (C + 1)), so that first scores are of size one (Ziegler et al. 2019's code), and is
    float32 whatever the body computes in.
    """

    def __init__(self, body: Transformer, generator: torch.Generator):
        super().__init__()
        self.body, self.score = body, nn.Linear(body.cfg.width, 1)
        with torch.no_grad():
            self.score.weight.normal_(0.0, (body.cfg.width + 1) ** -0.5, generator=generator)
            self.score.bias.zero_()

    def forward(
        self, tokens: Tensor, *, pos: Tensor | None = None, segment: Tensor | None = None, source: Encoded | None = None
    ) -> Tensor:
        """tokens (B, T) -> scores (B, T) float32."""
        memory = None if source is None else self.body.encode(source.tokens, source.pos, source.segment)
        x = self.body.hidden(tokens, pos=pos, segment=segment, memory=memory)  # (B, T, C)
        return (x.float() * self.score.weight).sum(-1) + self.score.bias


class Critic(nn.Module):
    """A policy, and beside its vocabulary a head that says what an answer is still going to be worth (PPO's V).

    The head reads what the vocabulary's head reads, so both cost one forward of the body, which learns from both. It
    begins at 0: before anything was seen, every answer is expected to be worth the same.
    """

    def __init__(self, policy: Transformer):
        super().__init__()
        self.policy = policy
        self.value = nn.Linear(policy.cfg.width, 1, device=policy.embed.tokens.weight.device)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        *,
        pos: Tensor | None = None,
        segment: Tensor | None = None,
        source: Encoded | None = None,
    ) -> tuple[Tensor, Tensor]:
        """tokens and targets (B, T) -> log p(target), 0 where it is < 0, and the value before it is drawn, float32."""
        model = self.policy
        memory = None if source is None else model.encode(source.tokens, source.pos, source.segment)
        x = model.hidden(tokens, pos=pos, segment=segment, memory=memory)  # (B, T, C)
        with torch.autocast(x.device.type, enabled=False):
            values: Tensor = self.value(x.float())[..., 0]  # (B, T)
        return model.head.logps(x, targets), values


def policy_of(model: Transformer | Critic) -> Transformer:
    """The model that writes, without what judges it."""
    return model.policy if isinstance(model, Critic) else model
