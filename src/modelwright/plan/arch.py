"""Architectures by name: what each makes of the plain decoder of the sizes that were chosen, or said by hand.

Letters: C width, H heads, F feed-forward width.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from modelwright.model.config import Config, Local, Relative, Rope, Routing
from modelwright.model.recurrent_families import lstm

Objective = Literal["causal", "masked", "span", "denoise"]
Arch = Literal[
    "llama", "gpt2", "bloom", "mistral", "qwen2", "qwen3", "gemma3", "mixtral", "switch", "lstm",
    "bert", "distilbert", "t5", "bart", "transformer",
]  # fmt: skip

EXPERTS = 8  # of a layer (Jiang et al. 2024; the smallest of Fedus et al. 2021's models)
LEAST = {"warmup": 0, "steps": 0, "context": 3}  # of what is said by hand, else 1; a row has marks on both sides


@dataclass(frozen=True)
class ByHand:
    """What the user has said; None is for the dial to derive.

    Raises ValueError naming the flag whose number is too small to mean anything.
    """

    arch: Arch | None = None
    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn: int | None = None
    context: int | None = None
    rate: float | None = None
    matrix_rate: float | None = None
    batch: int | None = None  # tokens per step
    accumulate: int | None = None  # micro-batches in one step
    tokens: int | None = None
    steps: int | None = None
    warmup: int | None = None
    experts: int | None = None  # of each layer that has any

    def __post_init__(self) -> None:
        for name, said in vars(self).items():
            flag, least = "--" + name.replace("_", "-"), LEAST.get(name, 1)
            if said is None or isinstance(said, str):
                continue
            if name in ("rate", "matrix_rate"):
                if not 0 < said < math.inf:
                    raise ValueError(f"{flag} must be above 0, not {said}")
            elif not said >= least:
                raise ValueError(f"{flag} must be at least {least}, not {said}")
        if self.experts is not None and self.arch not in ("switch", "mixtral"):
            raise ValueError("--experts is of a mixture: say --arch switch or --arch mixtral beside it")
        if self.experts == 1 and self.arch == "mixtral":
            raise ValueError("--experts must be 2 or more with --arch mixtral, of which a token passes two")


# -- proportions ---------------------------------------------------------------------------------------------


def best_ffn(width: int, gated: bool) -> float:
    """4 C; gated, 8/3 C, which costs the same (Shazeer 2020)."""
    return 8 / 3 * width if gated else 4 * width


def best_heads(width: int) -> int:
    """Heads 64 wide, as in GPT-2, BERT and T5; 32 below a width of 512, so that tiny models have several."""
    return max(1, width // (64 if width >= 512 else 32))


def ffn_step(width: int) -> int:
    """Feed-forward widths are multiples of 64, or 32 in tiny models: what matrix units take whole."""
    return 64 if width >= 512 else 32


def round_to(number: float, step: int) -> int:
    return max(step, step * round(number / step))


# -- what each makes of the plain decoder, which is Llama's but for its positions ---------------------------


def _llama(c: Config) -> Config:
    return replace(c, rope=Rope())


def _gpt2(c: Config) -> Config:
    return replace(c, learned=True, norm="layer", act="gelu_tanh", gated=False, attn_bias=True, ffn_bias=True)


def _bloom(c: Config) -> Config:
    """Its feed-forward is four times as wide as the model, which its files have no word for."""
    return replace(_gpt2(c), learned=False, alibi=True, embed_norm=True)


def _mistral(c: Config) -> Config:
    """Its window is an eighth of what it reads; here a half, since rows are short."""
    return replace(_llama(c), local=Local(max(1, c.context // 2)))


def _qwen2(c: Config) -> Config:
    return replace(_llama(c), qkv_bias=True)


def _qwen3(c: Config) -> Config:
    return replace(_llama(c), qk_norm=True)


def _gemma3(c: Config) -> Config:
    """Five layers of a window to one that sees everything, as the last one does however few there are."""
    some = tuple(i for i in range(c.layers - 1) if i % 6 != 5)
    near = Local(max(1, c.context // 4), some, Rope(10_000.0)) if some else None
    return replace(c, rope=Rope(1_000_000.0), local=near, norm="rms_from_one", part_norm=True, qk_norm=True,
                   act="gelu_tanh", embed_scale=math.sqrt(c.width), eps=1e-6)  # fmt: skip


def _bert(c: Config) -> Config:
    return replace(c, causal=False, pre_norm=False, norm="layer", eps=1e-12, final_norm=False, act="gelu", gated=False,
                   attn_bias=True, ffn_bias=True, learned=True, types=2, embed_norm=True,
                   head_transform=True, head_bias=True)  # fmt: skip


def _distilbert(c: Config) -> Config:
    return replace(_bert(c), types=0, pooler_act="relu")


def _t5(c: Config) -> Config:
    tower = replace(c, eps=1e-6, act="gelu_tanh", relative=Relative(), attn_scale=1.0, tied=False)
    return replace(tower, encoder=replace(tower, causal=False))


def _switch(c: Config) -> Config:
    """As Switch's own, whose files know but one embedding for all."""
    tower = replace(_t5(c), act="relu", gated=False, tied=True, scale_logits=c.width**-0.5, encoder=None)
    return replace(tower, encoder=replace(tower, causal=False))


def _bart(c: Config) -> Config:
    tower = replace(c, pre_norm=False, norm="layer", eps=1e-5, final_norm=False, act="gelu", gated=False,
                    attn_bias=True, ffn_bias=True, learned=True, offset=2, embed_norm=True)  # fmt: skip
    return replace(tower, encoder=replace(tower, causal=False))


def _transformer(c: Config) -> Config:
    """The first one (Vaswani et al. 2017), with a bias on its logits, as Marian has it."""
    tower = replace(_bart(c), act="relu", learned=False, offset=0, embed_norm=False, sinusoidal=True, head_bias=True,
                    embed_scale=math.sqrt(c.width), encoder=None)  # fmt: skip
    return replace(tower, encoder=replace(tower, causal=False))


STYLES: Mapping[Objective, Mapping[Arch, Callable[[Config], Config]]] = {  # the first is taken where none is said
    "causal": {
        "llama": _llama, "gpt2": _gpt2, "bloom": _bloom, "mistral": _mistral, "qwen2": _qwen2, "qwen3": _qwen3,
        "gemma3": _gemma3, "mixtral": _llama, "switch": _llama, "lstm": _llama,
    },
    "masked": {"bert": _bert, "distilbert": _distilbert},
    "span": {"t5": _t5, "switch": _switch, "transformer": _transformer},
    "denoise": {"bart": _bart, "transformer": _transformer},
}  # fmt: skip


def named(objective: Objective, arch: Arch | None) -> Arch:
    """The architecture's name, where none was said the objective's own. Raises ValueError for another objective's."""
    fitting = STYLES[objective]
    if arch is not None and arch not in fitting:
        others = [other for other, styles in STYLES.items() if arch in styles]
        raise ValueError(
            f"--arch {arch} is of --objective {' or '.join(others)}, and --objective {objective} takes "
            + ", ".join(fitting)
        )
    return next(iter(fitting)) if arch is None else arch


def build(objective: Objective, vocab: int, width: int, layers: int, hand: ByHand, context: int) -> Config:
    """The Config of an architecture: of `hand.arch`, or of the objective's own, Llama, BERT, T5 v1.1 or BART.

    Raises ValueError where heads do not divide the width, for what an LSTM has not, and for another objective's.
    """
    arch = named(objective, hand.arch)
    if arch == "lstm":
        check_lstm(hand)
        return lstm(vocab, width, layers, context)
    heads = hand.heads or best_heads(width)
    if width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}: choose a divisor of {width}")
    plain = Config(
        vocab=vocab,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=hand.kv_heads or heads,
        head=width // heads,
        ffn=width,
        context=context,
        experts=routing(arch, layers, hand.experts or EXPERTS),
    )
    made = STYLES[objective][arch](plain)
    best = best_ffn(width, made.gated)
    ffn = hand.ffn or (4 * width if arch == "bloom" else round_to(best, ffn_step(width)))
    return replace(made, ffn=ffn, encoder=made.encoder and replace(made.encoder, ffn=ffn))


def routing(arch: Arch, layers: int, count: int) -> Routing | None:
    """Mixtral: two of the experts in every layer. Switch: one, in every other layer, as Fedus et al. 2021 have it, with
    their capacity factor, jitter and coefficient of balance (sections 2.2 and 3.1, table 11)."""
    if arch == "mixtral":
        return Routing(count, top=2, normalised=True)
    if arch == "switch":
        every_other = tuple(range(1, layers, 2)) or None  # a single layer has them
        return Routing(count, layers=every_other, capacity_factor=1.25, jitter=0.01)
    return None


def check_lstm(hand: ByHand) -> None:
    """Raises ValueError for parts of a Transformer."""
    parts = {"--heads": hand.heads, "--kv-heads": hand.kv_heads, "--ffn": hand.ffn}
    if said := [flag for flag, value in parts.items() if value is not None]:
        raise ValueError(f"an LSTM has no attention and no feed-forward layers: leave out {', '.join(said)}")
