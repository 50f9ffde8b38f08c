"""The dial: from a size or a time, everything that a pretraining run must know.

`decide` derives width, layers, heads, feed-forward, context, rates, batch, steps and warm-up, each by a rule that
stands beside it with its source; any of them can be said by hand instead.

Letters: C width, L layers, H heads, D head width, F feed-forward width, N parameters, V vocabulary,
T query length, S source length.
"""

import bisect
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from modelwright.model.config import Config
from modelwright.plan import cost, memory
from modelwright.plan.arch import Arch as Arch
from modelwright.plan.arch import ByHand as ByHand
from modelwright.plan.arch import Objective as Objective
from modelwright.plan.arch import best_ffn, best_heads, build, ffn_step, round_to

CHINCHILLA = 20.0  # tokens a parameter (Hoffmann et al. 2022, table 3)
MASKED = 0.15  # share of tokens that BERT predicts, and that T5 cuts out (Devlin et al. 2019; Raffel et al. 2020)
ON = 0.5  # of the rates, where training goes on from a model: ours
SPAN = 3  # mean length of T5's cuts (Raffel et al. 2020, table 7)
MUON_RATE = 0.02  # for updates scaled by max(1, rows / columns)^0.5 (Jordan et al. 2024): one rate for all sizes
HELD = 1 << 14  # tokens worked on at once where no memory limit is given

# -- words to numbers ------------------------------------------------------------------------------------

COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_count(text: str) -> int:
    """'10M' -> 10_000_000; k, M, B (or G) and T, in either case; '260k', '1.5B', '124_000_000', '5e6'.

    Raises ValueError for anything else, and for what is not above zero.
    """
    found = re.fullmatch(r"([\d_.]+(?:e\d+)?)\s*([a-z]?)", text.strip().lower())
    return round(_scaled(found, COUNTS, f"cannot read {text!r} as a size: write 260k, 10M or 1.5B"))


def parse_time(text: str) -> float:
    """'3min' -> 180.0 seconds; s, min (or m), h and d; '90s', '2h', '1.5h', '1h30min'.

    Raises ValueError for anything else: a bare number has no unit.
    """
    trouble = f"cannot read {text!r} as a time: write 90s, 3min, 2h or 1h30min"
    pieces = re.findall(r"[\d_.]+\s*[a-z]*", text.lower())
    if not pieces or "".join(pieces).replace(" ", "") != text.lower().replace(" ", ""):
        raise ValueError(trouble)
    return sum(_scaled(re.fullmatch(r"([\d_.]+)\s*([a-z]+)", piece.strip()), SECONDS, trouble) for piece in pieces)


def _scaled(found: re.Match[str] | None, units: dict[str, int], trouble: str) -> float:
    if found is None or found[2] not in units:
        raise ValueError(trouble)
    try:
        number = float(found[1]) * units[found[2]]
    except ValueError:
        raise ValueError(trouble) from None
    if not 0 < number < math.inf:
        raise ValueError(trouble)
    return number


# -- the plan --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    objective: Objective
    config: Config
    parameters: int  # in all
    length: int  # tokens of a row that the model predicts from; of an encoder-decoder, those of the decoder
    source: int  # tokens of a row that an encoder reads for a decoder; else 0
    rows: int  # in one step
    accumulate: int  # micro-batches in one step; divides rows
    steps: int
    warmup: int  # steps over which the rates rise
    rate: float  # AdamW's: embeddings, norms, biases, head; or everything, without Muon
    matrix_rate: float  # Muon's: the blocks' matrices
    flops: float  # of the whole training
    seconds: float  # at the speed that was given
    memory: memory.TrainingMemory

    @property
    def batch(self) -> int:
        """Tokens read in one step."""
        return self.rows * (self.length + self.source)

    @property
    def tokens(self) -> int:
        """Tokens read in the whole training."""
        return self.steps * self.batch

    @property
    def active(self) -> int:
        """Parameters that a token meets: of a mixture of experts fewer than all."""
        return cost.active_parameters(self.config)

    @property
    def tokens_per_parameter(self) -> float:
        """Chinchilla's best is 20; far fewer: a smaller model would learn more in the same time. Of a mixture of
        experts, per active parameter: these are what a token costs."""
        return self.tokens / self.active


def decide(
    objective: Objective,
    vocab: int,
    speed: float,
    *,
    parameters: int | None = None,
    seconds: float | None = None,
    hand: ByHand | None = None,
    tokens_per_parameter: float = CHINCHILLA,
    bytes_free: int | None = None,
    precision: memory.Precision = "fp32",
    optimizer: memory.Optimizer = "muon",
    config: Config | None = None,
) -> Plan:
    """Plan a pretraining run from a size, a time, or both; of a model that is there already, from its `config`: at half
    of the rates, in rows as long as a new model of its size has, and with batches that suit the steps.

    `speed` is what the machine reaches in training, in FLOP/s: its measured peak times the share of it that training
    gets. A size alone is trained on 20 tokens a parameter; a time alone gets the size whose 20 tokens a parameter
    fit into it; with both, as many tokens are read as fit. `bytes_free` bounds the micro-batch.

    Raises ValueError where neither is given, where a size cannot hold the vocabulary, or where hands contradict.
    """
    hand = hand or ByHand()
    begun, gentle = config is not None, ON if config else 1.0
    config = config or choose_shape(objective, vocab, speed, parameters, seconds, hand, tokens_per_parameter)
    context = hand.context or (best_context(cost.parameters(config)) if begun else config.context)
    length, source = row_lengths(objective, min(config.context, context))
    row = length + source
    share = share_predicted(objective)
    per_row = cost.training_flops(config, length, source, share)
    tokens = float(hand.tokens or tokens_per_parameter * cost.active_parameters(config))
    if seconds is not None and hand.tokens is None:
        tokens = seconds * speed / per_row * row
    of_steps = batch_of_steps(hand.steps, per_row / row) if begun and hand.steps else None
    wished = max(1, round((hand.batch or of_steps or best_batch(tokens / row * per_row, tokens)) / row))
    how: dict[str, Any] = {"precision": precision, "optimizer": optimizer, "predicted": share}
    bytes_of = partial(memory.training, config, length=length, source=source, **how)
    fitting = micro_batches(wished, row, bytes_free, lambda held: bytes_of(rows=held).total)
    accumulate = hand.accumulate or fitting
    rows = accumulate * math.ceil(wished / accumulate)
    steps = max(1, int(tokens / (rows * row))) if hand.steps is None else hand.steps
    flops = steps * rows * per_row
    return Plan(
        objective=objective,
        config=config,
        parameters=cost.parameters(config),
        length=length,
        source=source,
        rows=rows,
        accumulate=accumulate,
        steps=steps,
        warmup=warmup_steps(steps) if hand.warmup is None else hand.warmup,
        rate=hand.rate or gentle * best_rate(max(1, steps) * rows * per_row),
        matrix_rate=hand.matrix_rate or gentle * MUON_RATE,
        flops=flops,
        seconds=flops / speed,
        memory=bytes_of(rows=rows // accumulate),
    )


def share_predicted(objective: Objective) -> float:
    """The share of positions that the head is run on."""
    return MASKED if objective == "masked" else 1.0


def row_lengths(objective: Objective, context: int) -> tuple[int, int]:
    """(T, S) of a row: tokens of the tower that predicts, and of the encoder that it reads.

    Of n tokens, 15% are cut in spans of 3, each span a sentinel: the encoder reads 0.85 n + 0.05 n, the decoder
    predicts 0.15 n + 0.05 n, and an end each: 568 tokens give T5's 512 and 114 (Raffel et al. 2020). Of the shortest
    texts one token is cut. `context` is at least 3. Who denoises writes the whole of a text, of which the encoder reads
    no more than there is (Lewis et al. 2019).
    """
    if objective == "denoise":
        return context, context
    if objective != "span":
        return context, 0
    cuts = [(n, max(1, round(n * MASKED))) for n in range(2, 2 * context + 2)]
    cuts_spans = [(n, noise, max(1, round(noise / SPAN))) for n, noise in cuts]
    noise, spans = max((noise, spans) for n, noise, spans in cuts_spans if n - noise + spans + 1 <= context)
    return noise + spans + 1, context


def best_batch(compute: float, tokens: float) -> float:
    """Tokens per step: 0.2920 C^0.3271 for C FLOPs of training (Bi et al. 2024, equation 1).

    Held below 1/200 of the tokens: a short run needs its steps more than it needs quiet gradients.
    """
    return min(0.2920 * math.pow(compute, 0.3271), tokens / 200)


def batch_of_steps(steps: int, flops: float) -> float:
    """The batch B of the same rule where the steps are given: B = 0.2920 (steps B flops)^0.3271, `flops` of a token."""
    return math.pow(0.2920 * math.pow(steps * flops, 0.3271), 1 / (1 - 0.3271))


def best_rate(compute: float) -> float:
    """AdamW's highest rate: 0.3118 C^-0.1250 for C FLOPs of training (Bi et al. 2024, equation 1), at most 0.006."""
    return min(0.3118 * math.pow(compute, -0.1250), 0.006)


def warmup_steps(steps: int) -> int:
    """A twentieth of the run, at most 500 steps."""
    return min(500, math.ceil(steps / 20))


def micro_batches(wished: int, row: int, bytes_free: int | None, bytes_of: Callable[[int], int]) -> int:
    """In how few parts a step of `wished` rows of `row` tokens fits into memory."""
    most = HELD // row if bytes_free is None else most_rows(bytes_of, wished, bytes_free)
    return math.ceil(wished / max(1, most))


def most_rows(bytes_of: Callable[[int], int], wished: int, bytes_free: int) -> int:
    """How many rows fit into memory at once, at most `wished`; ValueError where not even one does."""
    if bytes_of(1) > bytes_free:
        raise ValueError(
            f"training on a single row needs {bytes_of(1) / 2**20:,.0f} MiB and {bytes_free / 2**20:,.0f} MiB are "
            "free: choose a shorter context or a smaller model"
        )
    return bisect.bisect_right(range(1, wished + 1), bytes_free, key=bytes_of)


# -- the shape -------------------------------------------------------------------------------------------


def choose_shape(
    objective: Objective,
    vocab: int,
    speed: float,
    parameters: int | None,
    seconds: float | None,
    hand: ByHand,
    tokens_per_parameter: float = CHINCHILLA,
) -> Config:
    """The Config for a size; for width and layers said by hand; or for a time."""
    if parameters is not None:
        return shape(objective, vocab, parameters, hand)
    if hand.width and hand.layers:
        return build(objective, vocab, hand.width, hand.layers, hand, hand.context or best_context(10**7))
    if seconds is None:
        raise ValueError("a plan needs a size (10M), a time (3min), or both width and layers")

    def fits(n: float) -> bool:
        cfg = nearest(objective, vocab, round(n), hand)
        length, source = row_lengths(objective, cfg.context)
        share = share_predicted(objective)
        needs = tokens_per_parameter * cost.active_parameters(cfg)
        return needs <= seconds * cost.tokens_per_second(cfg, speed, length, source, share)

    low, high = math.log(33 * vocab), math.log(1e12)
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(math.exp(middle)) else (low, middle)
    return nearest(objective, vocab, round(math.exp(low)), hand)


def shape(objective: Objective, vocab: int, parameters: int, hand: ByHand | None = None) -> Config:
    """The Config within 5% of this many parameters, embedding included, whose proportions are best.

    Raises ValueError where there is none: the vocabulary leaves the layers no room, or the widths said by hand do not.
    """
    cfg = nearest(objective, vocab, parameters, hand or ByHand())
    found = cost.parameters(cfg)
    if abs(found / parameters - 1) > 0.05:
        said = "" if hand in (None, ByHand()) else " and what was said by hand"
        raise ValueError(
            f"no {objective} model with a vocabulary of {vocab:,}{said} has {parameters:,} parameters: "
            f"the nearest has {found:,}; choose another size or a smaller vocabulary"
        )
    return cfg


def nearest(objective: Objective, vocab: int, parameters: int, hand: ByHand) -> Config:
    """The same, as near to the size as it goes.

    An LSTM has two layers (Zaremba et al. 2014), and its width alone gives the size. Else each depth has a width that
    gives it, and the feed-forward's width takes up what is left. Of all depths, the one wins that is nearest to the
    wished-for proportions; to miss the size by 5% weighs as much as to be 2.7 times too thin.
    """
    context = hand.context or best_context(parameters)
    if hand.arch == "lstm":
        widths = [hand.width] if hand.width else range(4, 16384, 4)
        made = (build(objective, vocab, width, hand.layers or 2, hand, context) for width in widths)
        return min(made, key=lambda cfg: abs(cost.parameters(cfg) - parameters))
    wished = best_aspect(parameters)

    def badness(cfg: Config) -> float:
        miss = abs(cost.parameters(cfg) / parameters - 1)
        aspect = math.log(cfg.width / cfg.layers / wished)
        fat = math.log(cfg.ffn / best_ffn(cfg.width, cfg.gated))
        return aspect**2 + (2 * fat) ** 2 + (20 * miss) ** 2

    return min(candidates(objective, vocab, parameters, hand, context), key=badness)


def candidates(objective: Objective, vocab: int, parameters: int, hand: ByHand, context: int) -> Iterator[Config]:
    """For each depth, the widths on either side of the size, with the feed-forward that comes nearest to it."""

    def make(width: int, layers: int, ffn: int | None = None) -> Config:
        return build(objective, vocab, width, layers, replace(hand, ffn=ffn or hand.ffn), context)

    grid = allowed_widths(hand)
    thin = best_aspect(parameters) / 4
    for layers in [hand.layers] if hand.layers else range(1, 129):
        sizes = partial(lambda layers, width: cost.parameters(make(width, layers)), layers)
        at = bisect.bisect(grid, parameters, key=sizes)
        for width in grid[max(0, at - 2) : at + 2]:
            cfg = make(width, layers)
            fixed = hand.ffn or hand.arch == "bloom"
            yield cfg if fixed else make(width, layers, fill_ffn(cfg, make(width, layers, 2 * cfg.ffn), parameters))
        if len(grid) > 1 and grid[min(at, len(grid) - 1)] < thin * layers:
            return  # deeper ones would be threads


def fill_ffn(cfg: Config, doubled: Config, parameters: int) -> int:
    """The feed-forward width that brings `cfg` to the size, within a third of the best; `doubled` has it twice."""
    slope = (cost.parameters(doubled) - cost.parameters(cfg)) / cfg.ffn
    wished = cfg.ffn + (parameters - cost.parameters(cfg)) / slope
    return round_to(min(max(wished, cfg.ffn * 2 / 3), cfg.ffn * 4 / 3), ffn_step(cfg.width))


def allowed_widths(hand: ByHand) -> list[int]:
    """Multiples of 32, of 64 from 512 on, that the heads said by hand divide; or the width said by hand."""
    if hand.width:
        return [hand.width]
    grid = [*range(32, 512, 32), *range(512, 65536, 64)]
    heads = [(width, hand.heads or best_heads(width)) for width in grid]
    fits = [width for width, h in heads if width % (2 * h) == 0 and h % (hand.kv_heads or h) == 0]
    if not fits:
        raise ValueError(f"no width suits {hand.heads} heads with {hand.kv_heads} key/value heads: choose a divisor")
    return fits


def best_aspect(parameters: float) -> float:
    """Width per layer: 64 from 100M parameters on (GPT-2 and BERT base; nanochat's dial), 32 at 1M and below.

    Loss hardly depends on it (Kaplan et al. 2020, section 3.1), but a tiny model needs a second layer to look up what
    the first one found.
    """
    turns = math.log10(min(max(parameters, 1e6), 1e8) / 1e6) / 2
    return 32.0 * math.pow(2.0, turns)


def best_context(parameters: float) -> int:
    """256 tokens below 20M parameters, 512 below 200M, 1024 above."""
    return 256 if parameters < 20e6 else 512 if parameters < 200e6 else 1024
