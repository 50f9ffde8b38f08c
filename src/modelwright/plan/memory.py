"""How many bytes a model needs, by part; from its Config alone.

The rule of thumb for full fine-tuning in float32 is 24 bytes a parameter (weights 4, Adam 8, gradients 4,
activations and the rest 8). It knows nothing of the batch; here the activations are counted.

Letters: B batch, T query length, S source length, C width, H heads, K key/value heads, D head width, F feed-forward
width, L layers, N parameters, V vocabulary.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

from modelwright.model.attend import BLOCK, LONG
from modelwright.model.logps import KEEP, rows_at_once
from modelwright.model.transformer import Config
from modelwright.plan.cost import expert_layers, matrices, outputs, parameters, stacks

Precision = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["adamw", "muon"]

RULE_OF_THUMB = 24  # bytes a parameter


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step at its worst moment, the start of the way back."""

    weights: int  # float32, and in mixed precision a 16-bit copy of the matrices
    gradients: int
    optimizer: int
    activations: int  # what the blocks keep for the way back
    logits: int  # probabilities over the vocabulary, and one chunk of them in the making
    masks: int = 0  # who may look at whom, and a learned bias with its gradients, of the tower under way

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes of a model that generates."""

    weights: int
    cache: int  # keys and values of every token, those of the source included

    @property
    def total(self) -> int:
        return self.weights + self.cache


def training(
    cfg: Config,
    rows: int,
    length: int,
    source: int = 0,
    *,
    precision: Precision = "fp32",
    optimizer: Optimizer = "muon",
    predicted: float = 1.0,
) -> TrainingMemory:
    """Memory of one step over `rows` rows held at once, each of `length` tokens (and `source` tokens to read).

    Not counted: the interpreter and its libraries, the data's buffers, and what the allocator keeps unused.
    """
    number = 4 if precision == "fp32" else 2
    n, trained_by_muon = parameters(cfg), matrices(cfg) if optimizer == "muon" else 0
    copies = 0 if precision == "fp32" else 2 * (matrices(cfg) + cfg.vocab * cfg.width)
    kept = activations(cfg, length, source, number)
    if cfg.encoder:
        kept += activations(cfg.encoder, source, 0, number)
    return TrainingMemory(
        weights=4 * n + copies,
        gradients=4 * n,
        optimizer=8 * n - 4 * trained_by_muon,  # Adam keeps two moments, Muon one
        activations=rows * kept + buckets(cfg, length) + (buckets(cfg.encoder, source) if cfg.encoder else 0),
        logits=logits(cfg, round(rows * length * predicted), number),
        masks=max(masks(cfg, rows, length, number), masks(cfg.encoder, rows, source, number) if cfg.encoder else 0),
    )


def tuning(
    cfg: Config,
    learning: int,
    rows: int,
    length: int,
    source: int = 0,
    *,
    precision: Precision = "fp32",
    optimizer: Optimizer = "adamw",
    predicted: float = 1.0,
) -> TrainingMemory:
    """Memory of one step in which only `learning` of the parameters learn: the rest have no gradient and no moments.
    What the blocks keep is counted as if all learned, of which a LoRA keeps somewhat less.
    """
    found = training(cfg, rows, length, source, precision=precision, optimizer=optimizer, predicted=predicted)
    moments = found.optimizer if optimizer == "muon" else 8 * learning  # with Muon, all learn
    return replace(found, gradients=4 * learning, optimizer=moments)


def activations(cfg: Config, length: int, source: int, number: int) -> int:
    """Bytes that one tower keeps of one row for the way back, with numbers of `number` bytes inside the products.

    In the manner of Korthikanti et al. 2022, section 4.1, for model/transformer.py with no dropout: the residual stream
    is float32, and each norm keeps what it read; each product keeps what it read, in 16 bits where precision is mixed.
    """
    if cfg.recurrent:
        return recurrent(cfg, length, number)
    norms = (1 if cfg.parallel else 3 if cfg.encoder else 2) * 4 * cfg.width
    norms += number * (2 * cfg.part_norm * cfg.width + cfg.qk_norm * (cfg.heads + cfg.kv_heads) * cfg.head)
    # A pre-norm model narrows a norm's output once for all products that read it; else each makes its own copy.
    copies = (4 + cfg.gated if number < 4 and not cfg.pre_norm else 2) + (1 if cfg.encoder else 0)
    hidden = (
        4 if cfg.gated else 2
    ) * cfg.ffn  # gate, up, gate's activation and their product; or up and its activation
    block = length * (norms + number * (copies * cfg.width + hidden)) + attention(
        cfg, length, length, number, biased=cfg.relative is not None
    )
    if cfg.encoder:
        memory = 2 * number * cfg.width if number < 4 else 0  # the encoder's output, narrowed for keys and for values
        block += attention(cfg, length, source, number) + source * memory
    # PyTorch's kernel keeps the mask: in float32 the one that all layers share, else each layer's attention its own.
    seen = (0 if cfg.relative or cfg.alibi else length, source)  # a bias holds the mask: see `masks`
    mask = 4 * length * sum(keys for keys in seen if keys > LONG) if number == 4 else 0
    last_norm = length * (4 + number) * cfg.width
    return cfg.layers * block + experts(cfg, length, number) + mask + last_norm


def experts(cfg: Config, length: int, number: int) -> int:
    """Bytes that layers of experts keep beyond a feed-forward's: k copies of what a token brings, of what is made of it
    inside, and of what comes out, twice: before and after its weight; and the router's float32 copy and choices."""
    if cfg.experts is None:
        return 0
    hidden, top = (4 if cfg.gated else 2) * cfg.ffn, cfg.experts.top
    each = number * ((top - 1) * hidden + 3 * top * cfg.width) + 4 * cfg.width * (number < 4)
    return expert_layers(cfg) * length * (each + 4 * 4 * cfg.experts.count)


def recurrent(cfg: Config, length: int, number: int) -> int:
    """The same of an LSTM: of each token and layer what it read, and in float32 four gates, h, c and tanh(c)."""
    read = 4 if number == 4 else 4 + number  # narrowed for the product
    dropped = 4 if cfg.dropout else 0
    return cfg.layers * length * cfg.width * (4 * 7 + read + dropped)


def buckets(cfg: Config, length: int) -> int:
    """Bytes of the distances that a learned bias was looked up by, which all rows share."""
    return 8 * length * length if cfg.relative else 0


def masks(cfg: Config, rows: int, length: int, number: int) -> int:
    """Bytes of the mask of packed rows in the scores' own type, beside which a learned bias is float32 in three copies:
    itself, its gradient in one layer, and over all layers."""
    if cfg.recurrent:
        return 0
    if cfg.alibi:
        return cfg.heads * length * length * (rows * number + 4)
    if not cfg.relative:
        kinds = 2 if cfg.local and cfg.local.layers is not None else 1  # of layers that see all, and that see a window
        return kinds * rows * number * length * length
    return cfg.heads * length * length * (rows * number + 3 * 4)


def attention(cfg: Config, length: int, keys: int, number: int, *, biased: bool = False) -> int:
    """What model/attend.py keeps: queries, keys, values, output, and while rows are short the probabilities."""
    heads = cfg.heads * cfg.head
    if (
        keys > LONG and not biased
    ):  # PyTorch's kernel: in place of probabilities, a number for each query and head, and a narrow mask
        mask = number * length * keys * (cfg.heads if cfg.alibi else 1) if number < 4 else 0
        return number * (2 * length * heads + 2 * keys * cfg.kv_heads * cfg.head) + 4 * length * cfg.heads + mask
    causal = cfg.causal and keys == length
    seen = sum(min(BLOCK, length - i) * (min(i + BLOCK, length) if causal else keys) for i in range(0, length, BLOCK))
    return number * (2 * length * heads + 2 * keys * heads + cfg.heads * seen)


def logits(cfg: Config, predictions: int, number: int) -> int:
    """Bytes of the head for this many predictions: probabilities are kept while they are few, else made again."""
    kept = number * predictions * cfg.outputs if predictions * cfg.outputs <= KEEP else 0
    return kept + 2 * 4 * cfg.outputs * min(rows_at_once(cfg.outputs), predictions)


def inference(cfg: Config, rows: int, length: int, source: int = 0, *, number: int = 4) -> InferenceMemory:
    """Memory of generating with a cache of `length` tokens in each of `rows` rows, at `number` bytes a number."""
    slots = length + (source if cfg.encoder else 0)
    kept = 4 if cfg.recurrent else number  # what an LSTM keeps is never rounded
    cache = 2 * cfg.layers * cfg.kv_heads * cfg.head * slots * rows * kept
    return InferenceMemory(weights=number * parameters(cfg), cache=cache)


def rounded(cfg: Config, bits: int, *, number: int = 4, group: int | None = None) -> int:
    """Bytes of the weights with those of all products, the vocabulary's too, rounded to `bits`, all else as it was.

    A scale of `number` bytes, as wide as what is left alone, goes with each output; or, with `group`, with each so many
    weights (Frantar et al. 2022, GPTQ, section 4). A tied embedding stays whole to be looked up, beside the head; and
    so do experts.
    """
    head, blocks = cfg.width * cfg.outputs, matrices(cfg) - stacks(cfg)
    products = blocks + head
    left = parameters(cfg) - blocks - (0 if cfg.tied else head)
    scales = products // group if group else outputs(cfg)
    return products * bits // 8 + number * (scales + left)


def rule_of_thumb(n: int) -> int:
    """24 bytes a parameter: what full fine-tuning with Adam in float32 takes, before the batch is known."""
    return RULE_OF_THUMB * n
