"""From logits to the next token: the sampling rules, each a function from logits to logits, and the draw.

B batch, V vocabulary. Rules run in the order of `apply_rules`: penalties, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

NEVER = float("-inf")

Rule = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sampling:
    """How a continuation is drawn. Temperature 0 is greedy: the likeliest token each time, top-k and the like unused.

    With `beams` above 1 the likeliest whole texts are looked for instead, ranked by `length_penalty` (`infer.beam`).
    Raises ValueError naming the field that is out of range.
    """

    max_new: int = 128
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    n: int = 1
    seed: int | None = None
    logprobs: bool = False
    beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        _check_counts(self)
        _check_range("temperature", self.temperature, self.temperature >= 0, "0 (greedy) or more")
        _check_range("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0")
        if self.top_p is not None:
            _check_range("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        if self.min_p is not None:
            _check_range("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 to 1")
        for name in ("frequency_penalty", "presence_penalty"):
            _check_range(name, value := getattr(self, name), -2 <= value <= 2, "from -2 to 2")
        if not all(isinstance(s, str) and s for s in stop):
            raise ValueError(f"stop must hold texts of at least one character, not {stop!r}")
        _check_beams(self)
        if self.greedy and self.n > 1 and self.beams == 1:
            raise ValueError(f"n is {self.n}, but temperature 0 is greedy and gives one continuation only")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def _check_counts(s: Sampling) -> None:
    for name, least in (("max_new", 1), ("n", 1), ("beams", 1), ("top_k", 1), ("seed", 0)):
        value = getattr(s, name)
        if value is None and name in ("top_k", "seed"):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def _check_beams(s: Sampling) -> None:
    _check_range("length_penalty", s.length_penalty, s.length_penalty >= 0, "0 or more")
    if s.beams == 1:
        if s.length_penalty != 1:
            raise ValueError(
                f"length_penalty is {s.length_penalty}, and ranks the texts of beams: say beams, 2 or more"
            )
        return
    if not s.greedy:
        raise ValueError(
            f"{s.beams} beams look for the likeliest text and draw nothing: leave out either beams or temperature, "
            "top_k, top_p, min_p and seed"
        )
    if s.n > s.beams:
        raise ValueError(f"n is {s.n}, but {s.beams} beams find {s.beams} texts: say beams of {s.n} or more")
    if s.repetition_penalty != 1 or s.frequency_penalty or s.presence_penalty:
        raise ValueError(
            f"{s.beams} beams are ranked by the model's own probabilities, without penalties: leave out either beams "
            "or the penalties (repetition_penalty 1, frequency_penalty 0, presence_penalty 0)"
        )


def _check_range(name: str, value: float, ok: bool, allowed: str) -> None:
    if not ok or value != value or value == float("inf"):
        raise ValueError(f"{name} must be {allowed}, not {value!r}")


def settings(generation: Mapping[str, Any], **wanted: Any) -> Sampling:
    """The settings asked for, and for what was left open (absent or None) the model's own from its
    `generation_config.json`.

    A model that does not ask to be sampled (`do_sample`) is read greedily, unless a setting asks for sampling:
    a temperature above 0, top-k, top-p, min-p, a seed, or several continuations. Beams draw nothing: where they are
    asked for, the model's own `length_penalty` ranks them, and its `do_sample` says nothing.
    """
    _check_names(wanted)
    asked = {name: value for name, value in wanted.items() if value is not None}
    beams = asked.get("beams", 1) != 1
    sampled = (
        (generation.get("do_sample") and not beams)
        or any(asked.get(name) for name in ("temperature", "top_k", "top_p", "min_p"))
        or "seed" in asked
        or (asked.get("n", 1) != 1 and not beams)
    )
    own: dict[str, Any] = {"temperature": float(generation.get("temperature") or 1.0) if sampled else 0.0}
    if generation.get("max_new_tokens"):
        own["max_new"] = generation["max_new_tokens"]
    if generation.get("repetition_penalty"):
        own["repetition_penalty"] = float(generation["repetition_penalty"])
    if beams and generation.get("length_penalty") is not None:
        own["length_penalty"] = float(generation["length_penalty"])
    if sampled and generation.get("do_sample"):
        own |= {name: generation[name] for name in ("top_k", "top_p", "min_p") if generation.get(name)}
    return Sampling(**(own | asked))


def _check_names(wanted: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(Sampling)]
    if unknown := sorted(set(wanted) - set(known)):
        close = difflib.get_close_matches(unknown[0], known, n=1)
        near = f", perhaps {close[0]}" if close else ""
        raise ValueError(f"there is no sampling setting {unknown[0]!r}{near}; there are {', '.join(known)}")


# -- the rules ----------------------------------------------------------------------------------


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make what was already said less likely: divide its logit, or multiply it where it is negative.

    logits (B, V), seen (B, V) bool: tokens of the prompt and the continuation. Keskar et al. 2019 (CTRL), section 4.1.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)  # (B, V)


def count_penalty(logits: Tensor, counts: Tensor, frequency: float, presence: float) -> Tensor:
    """Subtract `frequency` for each time a token was generated, and `presence` once if it was at all.

    logits (B, V), counts (B, V): how often each token stands in the continuation, the prompt left out.
    """
    return logits - frequency * counts - presence * (counts > 0)  # (B, V)


def temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharpen (below 1) or flatten (above 1) the distribution. logits (B, V)."""
    return logits / temperature


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens, and those that equal the last of them. logits (B, V). Fan et al. 2018."""
    least = logits.topk(min(k, logits.size(-1))).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < least, NEVER)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens that hold at least the probability p, the nucleus.

    logits (B, V). Holtzman et al. 2019, "The curious case of neural text degeneration", section 3.1.
    """
    if p >= 1:
        return logits
    total = logits.logsumexp(-1, keepdim=True)  # (B, 1)
    for size in (min(256, logits.size(-1)), logits.size(-1)):  # sorting a whole vocabulary is slow, seldom needed
        best, index = logits.topk(size)  # (B, size), from the likeliest down
        probs = (best - total).exp()
        cumulative = probs.cumsum(-1)
        if bool((cumulative[:, -1] >= p).all()):
            break
    outside = cumulative - probs >= p  # what stands before a token is enough without it
    outside[:, 0] = False
    kept = torch.full_like(logits, NEVER)
    return kept.scatter_(-1, index, best.masked_fill(outside, NEVER))  # (B, V)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as likely as the likeliest. logits (B, V). Nguyen et al. 2024."""
    probs = logits.softmax(-1)  # (B, V)
    return logits.masked_fill(probs < p * probs.amax(-1, keepdim=True), NEVER)


# -- what was said so far ------------------------------------------------------------------------


@dataclass
class History:
    """Which tokens stand in each row so far: what the penalties read. Kept only where a penalty is asked for."""

    seen: Tensor  # (B, V) bool: in the prompt or the continuation
    counts: Tensor  # (B, V) float32: times in the continuation

    def add(self, tokens: Tensor) -> None:
        """Take in one new token (B,) of each row."""
        self.seen.scatter_(1, tokens[:, None], True)
        self.counts.scatter_add_(1, tokens[:, None], self.counts.new_ones(len(tokens), 1))


def history(prompts: Sequence[Sequence[int]], vocab: int, sampling: Sampling, device: torch.device) -> History | None:
    """The history of rows that hold only their prompts; None where no penalty reads it."""
    if sampling.repetition_penalty == 1 and not sampling.frequency_penalty and not sampling.presence_penalty:
        return None
    seen = torch.zeros(len(prompts), vocab, dtype=torch.bool, device=device)
    for row, prompt in enumerate(prompts):
        said = [token for token in prompt if token < vocab]  # a soft prompt's ids are beyond: they cannot be said again
        seen[row, torch.tensor(said, dtype=torch.long, device=device)] = True
    return History(seen, torch.zeros(len(prompts), vocab, device=device))


def rules(sampling: Sampling, past: History | None = None) -> list[tuple[str, Rule]]:
    """Every rule that the settings ask for, by its name and in order, each from logits (B, V) to logits."""
    found: list[tuple[str, Rule]] = []
    if past is not None and sampling.repetition_penalty != 1:
        found.append(("penalties", lambda x: repetition_penalty(x, past.seen, sampling.repetition_penalty)))
    if past is not None and (sampling.frequency_penalty or sampling.presence_penalty):
        counted = sampling.frequency_penalty, sampling.presence_penalty
        found.append(("penalties", lambda x: count_penalty(x, past.counts, *counted)))
    if sampling.greedy:
        return found
    if sampling.temperature != 1:
        found.append(("temperature", lambda x: temperature(x, sampling.temperature)))
    if (k := sampling.top_k) is not None:
        found.append(("top_k", lambda x: top_k(x, k)))
    if (nucleus := sampling.top_p) is not None:
        found.append(("top_p", lambda x: top_p(x, nucleus)))
    if (least := sampling.min_p) is not None:
        found.append(("min_p", lambda x: min_p(x, least)))
    return found


def apply_rules(logits: Tensor, sampling: Sampling, past: History | None = None) -> Tensor:
    """Every rule in order. logits (B, V) -> (B, V), float32 where any rule applies, or the draw is random."""
    if sampling.greedy and past is None:
        return logits
    logits = logits.float()
    for _, rule in rules(sampling, past):
        logits = rule(logits)
    return logits


class Likely(NamedTuple):
    """A token that might have been drawn: log p in nats under the model itself, and what each rule made of p."""

    token: int
    logprob: float
    after: dict[str, float]  # p after bias, penalties, temperature, top_k, top_p, min_p: those asked for, in this order
    logit: float = 0.0


def likely(
    logits: Tensor, top: int, sampling: Sampling, past: History | None = None, allowed: Tensor | None = None
) -> list[Likely]:
    """The `top` likeliest tokens of one row, logits (1, V), and how the rules reshaped them.

    allowed (1, V): the logits with a bias, or without what a grammar forbids: where the rules begin.
    """
    logps = logits.float().log_softmax(-1)[0]  # (V)
    best = logps.topk(min(top, len(logps)))
    after: dict[str, list[float]] = {}
    plain = logits[0, best.indices].tolist()
    reshaped = logits.float() if allowed is None else allowed.float()
    begun: list[tuple[str, Rule]] = [] if allowed is None else [("bias", lambda x: x)]
    for name, rule in begun + rules(sampling, past):
        reshaped = rule(reshaped)
        after[name] = reshaped.softmax(-1)[0, best.indices].tolist()
    return [
        Likely(token, logp, {name: probs[at] for name, probs in after.items()}, plain[at])
        for at, (token, logp) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    ]


# -- the draw -----------------------------------------------------------------------------------


def pick(logits: Tensor, generator: Generator | Sequence[Generator] | None) -> Tensor:
    """One token for each row: logits (B, V) -> (B,) int64; the likeliest where there is no generator.

    The draw inverts the cumulative distribution at one uniform number a row, so a row with its own generator (on the
    CPU) gets the same token whatever stands beside it. Several rows may share one generator.
    """
    if generator is None:
        return logits.max(-1).indices  # the first of equals, as argmax, which takes three times as long on a CPU
    if isinstance(generator, Generator):
        uniform = torch.rand(len(logits), generator=generator, dtype=torch.float64)
    else:
        uniform = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generator])  # (B,)
    cumulative = logits.softmax(-1, dtype=torch.float64).cumsum(-1)  # (B, V); in float32 rare tokens would be lost
    total = cumulative[:, -1:]
    # Below the total even after rounding: so what is found always has a probability above 0.
    point = torch.minimum(uniform.to(total.device)[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True)[:, 0]


def generators(prompts: Sequence[Sequence[int]], n: int, seed: int) -> list[Generator]:
    """A generator for each of the n samples of each prompt, the samples of one prompt side by side.

    It depends on the seed, the prompt and which sample of that prompt it is, never on the neighbours; a prompt that
    stands in the batch twice goes on counting its samples, so that the two differ.
    """
    count: dict[bytes, int] = {}
    out = []
    for prompt in prompts:
        key = ",".join(map(str, prompt)).encode()
        for _ in range(n):
            sample = count[key] = count.get(key, -1) + 1
            digest = hashlib.blake2b(b"%d;%d;%b" % (seed, sample, key), digest_size=8).digest()
            out.append(Generator().manual_seed(int.from_bytes(digest, "little")))
    return out
