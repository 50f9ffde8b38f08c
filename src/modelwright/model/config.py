"""The shape of a Transformer, as data: all that `transformer.py` is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretch of slow rotations to longer contexts (Dubey et al. 2024, section 3.4.1)."""

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021); `stretch` counts positions in steps of 1 / stretch (Chen et al. 2023)."""

    base: float = 10_000.0
    scaling: RopeScaling | None = None
    stretch: float = 1.0


@dataclass(frozen=True)
class Relative:
    """T5's learned bias by bucketed distance (Raffel et al. 2020, section 2.1)."""

    buckets: int = 32
    distance: int = 128


@dataclass(frozen=True)
class Local:
    """Attention to the last `window` tokens alone, the token's own among them (Beltagy et al. 2020), in `layers`, by
    number, or None for all; their rotary positions are `rope` where they are others than those of the rest."""

    window: int
    layers: tuple[int, ...] | None = None
    rope: Rope | None = None

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"a window holds a token's own place at least, so 1 or more, not {self.window}")


@dataclass(frozen=True)
class Labels:
    """What a model chooses among instead of tokens: classes of a whole text, tags of each token, the ends of a span.

    The label of a text is read at its first token, after a pooler (Devlin et al. 2019, section 4.1). Of a span each
    label is chosen once, among the tokens: where it starts, and where it ends (section 4.2).
    """

    names: tuple[str, ...]
    each: Literal["text", "token", "span"] = "text"

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or len(self.names) < 2:
            raise ValueError(f"a model chooses among at least two labels, each named once, not {self.names}")


SPAN = Labels(("start", "end"), "span")  # of an answer that is pointed at


@dataclass(frozen=True)
class Routing:
    """Which tokens pass which experts.

    count: E. top: k. layers: which of a tower's have experts; None, all. normalised: a token's k probabilities are
    divided by their sum, as in Mixtral; else they multiply as they are, as in Switch.
    capacity_factor: in training, of each row an expert takes its even share of the places times this, in the order of
    the tokens; who comes later is dropped, and only the residual passes (Fedus et al. 2021, eq. 3). Not counted where a
    model is used: what a token becomes must not depend on those after it. capacity: places of an expert in a row, in
    training and in use, as transformers' Switch counts them.
    balance: the coefficient of `Traffic.balance` in a loss. jitter: in training the router reads x u, with u drawn from
    U(1 - jitter, 1 + jitter) (Fedus et al. 2021, table 11).
    """

    count: int
    top: int = 1
    layers: tuple[int, ...] | None = None
    normalised: bool = False
    capacity_factor: float | None = None
    capacity: int | None = None
    balance: float = 0.01
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.top <= self.count:
            raise ValueError(f"a token cannot pass {self.top} of {self.count} experts: choose from 1 to {self.count}")
        if self.capacity_factor is not None and not self.capacity_factor >= 1:
            raise ValueError(
                f"a capacity factor of {self.capacity_factor} drops tokens however evenly they are spread: "
                "choose 1 or more, or None for no limit"
            )
        if self.capacity is not None and self.capacity < 1:
            raise ValueError(f"an expert takes at least 1 token of a row, not {self.capacity}; None sets no limit")
        if not self.balance >= 0 or not 0 <= self.jitter < 1:
            raise ValueError(f"balance ({self.balance}) is at least 0, and jitter ({self.jitter}) from 0 to below 1")

    def at(self, layer: int) -> bool:
        """Whether this layer has experts."""
        return self.layers is None or layer in self.layers


@dataclass(frozen=True)
class Config:
    """The shape of a Transformer. What a model lacks is None, False or 0.

    A decoder is causal; an encoder is not; an encoder-decoder is a causal config that names the `encoder` it reads.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    ffn: int
    context: int
    causal: bool = True
    # -- where a part of a block reads and where it is normed
    pre_norm: bool = True  # or after the sum, as in the first Transformer and in BERT
    part_norm: bool = False  # what a part says is normed too, before it is added (Gemma)
    parallel: bool = False  # both parts of a block read the same (PaLM)
    norm: Literal["rms", "rms_from_one", "layer"] = "rms"  # from one: weights are kept as their distance from 1 (Gemma)
    norm_bias: bool = True  # of LayerNorm
    eps: float = 1e-5
    final_norm: bool = True
    # -- the parts
    act: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    gated: bool = True
    attn_bias: bool = False
    qkv_bias: bool = False  # biases that attention's output has not (Qwen 2)
    recurrent: bool = (
        False  # an LSTM in the blocks' place (`recurrent.py`): no attention, one head as wide as the model
    )
    qk_norm: bool = False  # an RMSNorm on each query and key (Henry et al. 2020)
    attn_scale: float | None = None  # of the scores; None: 1 / sqrt(head)
    ffn_bias: bool = False
    experts: Routing | None = None  # in the feed-forward's place
    # -- positions
    rope: Rope | None = None
    local: Local | None = None
    relative: Relative | None = None
    alibi: bool = False  # scores fall with distance, by each head's own slope (Press et al. 2022)
    learned: bool = False
    offset: int = 0  # rows of the learned table before that of the first position (RoBERTa, BART)
    sinusoidal: bool = False  # Vaswani et al. 2017, section 3.5
    # -- the two ends
    types: int = 0
    embed_norm: bool = False
    embed_scale: float = 1.0
    tied: bool = True
    scale_logits: float = 1.0
    head_transform: bool = False
    head_bias: bool = False
    pooler_act: Literal["tanh", "relu"] = "tanh"  # of the head for labels of whole texts: BERT's, or DistilBERT's
    dropout: float = 0.0
    encoder: Config | None = None
    labels: Labels | None = None

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} heads cannot share {self.kv_heads} key/value heads: choose a divisor of {self.heads}"
            )
        if self.rope and self.head % 2:
            raise ValueError(f"rotary positions turn pairs of features: a head width of {self.head} is odd")
        if self.sinusoidal and self.width % 2:
            raise ValueError(f"sinusoidal positions are pairs of a sine and a cosine: a width of {self.width} is odd")
        if self.labels and (self.tied or self.head_transform):
            raise ValueError("a head for labels shares no weights with the embedding and has no transform of its own")
        if self.local and not self.causal:
            raise ValueError("a window looks back, so only a decoder has one")
        if self.encoder and self.qk_norm:
            raise ValueError("queries and keys are normed in self-attention alone: an encoder-decoder has no such norm")
        if self.recurrent and not (
            self.causal and self.encoder is None and self.heads == 1 and self.head == self.width
        ):
            raise ValueError("an LSTM reads from left to right, and keeps of a token one head as wide as the model")
        if self.parallel and (not self.pre_norm or self.part_norm or self.encoder):
            raise ValueError("the parts of a block are parallel only where one norm stands before both of two parts")
        if self.experts and (self.ffn_bias or self.recurrent):
            raise ValueError("experts stand in the place of feed-forwards, and those have no biases")
        if self.experts and not set(self.experts.layers or ()) <= set(range(self.layers)):
            raise ValueError(f"layers {self.experts.layers} cannot all have experts in a tower of {self.layers}")

    @property
    def shape(self) -> Literal["decoder", "encoder", "encoder-decoder"]:
        if self.encoder is not None:
            return "encoder-decoder"
        return "decoder" if self.causal else "encoder"

    @property
    def routing(self) -> Routing | None:
        """How tokens find experts, in whichever tower has any."""
        return self.experts or (self.encoder.experts if self.encoder else None)

    @property
    def outputs(self) -> int:
        """How many things the head chooses among."""
        return len(self.labels.names) if self.labels else self.vocab

    @property
    def unbounded(self) -> bool:
        """Whether a text may be longer than any the model was trained on: distances, unlike positions, go on, and an
        LSTM knows neither."""
        return self.relative is not None or self.alibi or self.recurrent

    @property
    def own_places(self) -> bool:
        """Whether a tower learns something of its own before its blocks, beside the embedding of tokens."""
        return self.learned or self.types > 0 or self.embed_norm

    def is_local(self, layer: int) -> bool:
        """Whether a layer sees a window alone."""
        return self.local is not None and (self.local.layers is None or layer in self.local.layers)
