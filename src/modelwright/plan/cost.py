"""What a model costs to run: parameters, FLOPs, seconds; from its Config alone.

A FLOP is one addition or multiplication, so a product of (n, m) with (m, k) costs 2 n m k. Counted are the matrix
products, which take nearly all of the time; norms, activations, softmax and the embedding's lookups are not.

Letters: B batch, T query length, S source length, C width, H heads, K key/value heads, D head width, F feed-forward
width, L layers, N parameters, V vocabulary; E experts, of which a token passes k.
"""

from modelwright.model.transformer import Config


def parameters(cfg: Config) -> int:
    """How many numbers the model learns; a vocabulary shared by embedding and head counts once."""
    return sum(parameters_by_part(cfg).values())


def parameters_by_part(cfg: Config) -> dict[str, int]:
    """The same by part: embedding, encoder (0 where there is none), stack, head."""
    return {
        "embedding": embedding_parameters(cfg),
        "encoder": stack_parameters(cfg.encoder) if cfg.encoder else 0,
        "stack": stack_parameters(cfg),
        "head": head_parameters(cfg),
    }


def embedding_parameters(cfg: Config) -> int:
    """Tokens, and what each tower learns before its blocks: an encoder's own, where it has them, are counted here."""
    return cfg.vocab * cfg.width + places_parameters(cfg) + (places_parameters(cfg.encoder) if cfg.encoder else 0)


def places_parameters(cfg: Config) -> int:
    rows = (cfg.context + cfg.offset if cfg.learned else 0) + cfg.types
    return rows * cfg.width + ((1 + cfg.norm_bias) * cfg.width if cfg.embed_norm else 0)


def stack_parameters(cfg: Config) -> int:
    return sum(parameters_by_layer(cfg).values())


def parameters_by_layer(cfg: Config) -> dict[str, int]:
    """Those of one tower by kind of layer; attention is its cross-attention too."""
    if cfg.recurrent:
        lstm = cfg.layers * (block_matrices(cfg) + 4 * cfg.width)
        return {"recurrence": lstm, "norms": cfg.final_norm * norm_parameters(cfg)}
    norms = (1 if cfg.parallel else attentions(cfg) + 1) + (2 if cfg.part_norm else 0)
    qk_norm = 2 * cfg.head if cfg.qk_norm else 0
    return {
        "attention": cfg.layers * attentions(cfg) * attention_parameters(cfg),
        "feed-forward": cfg.layers * feed_forward_parameters(cfg)
        + expert_layers(cfg) * (expert_matrices(cfg) + router_matrices(cfg)),
        "norms": (cfg.layers * norms + cfg.final_norm) * norm_parameters(cfg) + cfg.layers * qk_norm,
        "relative positions": cfg.relative.buckets * cfg.heads if cfg.relative else 0,
    }


def attentions(cfg: Config) -> int:
    return 2 if cfg.encoder else 1


def attention_parameters(cfg: Config) -> int:
    biases = attention_outputs(cfg) if cfg.attn_bias else attention_outputs(cfg) - cfg.width if cfg.qkv_bias else 0
    return attention_matrices(cfg) + biases


def attention_matrices(cfg: Config) -> int:
    """q, k, v and o."""
    return 2 * cfg.width * (cfg.heads + cfg.kv_heads) * cfg.head


def attention_outputs(cfg: Config) -> int:
    """Those of q, k, v, and o."""
    return (cfg.heads + 2 * cfg.kv_heads) * cfg.head + cfg.width


def feed_forward_parameters(cfg: Config) -> int:
    return feed_forward_matrices(cfg) + (feed_forward_outputs(cfg) if cfg.ffn_bias else 0)


def feed_forward_matrices(cfg: Config) -> int:
    return (3 if cfg.gated else 2) * cfg.width * cfg.ffn


def feed_forward_outputs(cfg: Config) -> int:
    return (2 if cfg.gated else 1) * cfg.ffn + cfg.width


def block_matrices(cfg: Config) -> int:
    """The weights of one block that multiply: q, k, v, o of each attention, and the feed-forward's two or three; or an
    LSTM's four for what comes in and four for what it kept. Of a block with experts, one of them."""
    if cfg.recurrent:
        return 8 * cfg.width * cfg.width
    return attentions(cfg) * attention_matrices(cfg) + feed_forward_matrices(cfg)


def expert_layers(cfg: Config) -> int:
    return sum(cfg.experts.at(layer) for layer in range(cfg.layers)) if cfg.experts else 0


def expert_matrices(cfg: Config) -> int:
    """The weights of all experts of a block but one."""
    return (cfg.experts.count - 1) * feed_forward_matrices(cfg) if cfg.experts else 0


def router_matrices(cfg: Config) -> int:
    return cfg.experts.count * cfg.width if cfg.experts else 0


def stacks(cfg: Config) -> int:
    """The weights of all experts of all layers."""
    own = expert_layers(cfg) * (feed_forward_matrices(cfg) + expert_matrices(cfg))
    return own + (stacks(cfg.encoder) if cfg.encoder else 0)


def active_parameters(cfg: Config) -> int:
    """How many of the parameters a token meets: of a mixture of E experts, k."""
    towers = [cfg, *([cfg.encoder] if cfg.encoder else [])]
    idle = [
        expert_layers(tower) * (tower.experts.count - tower.experts.top) * feed_forward_matrices(tower)
        for tower in towers
        if tower.experts
    ]
    return parameters(cfg) - sum(idle)


def block_outputs(cfg: Config) -> int:
    """How many outputs these have: where weights are rounded to eight bits, each has a scale of its own."""
    if cfg.recurrent:
        return 8 * cfg.width
    return attentions(cfg) * attention_outputs(cfg) + feed_forward_outputs(cfg)


def norm_parameters(cfg: Config) -> int:
    return (1 + cfg.norm_bias) * cfg.width if cfg.norm == "layer" else cfg.width


def head_parameters(cfg: Config) -> int:
    if cfg.labels:
        return head_matrices(cfg) + cfg.outputs + (cfg.width if cfg.labels.each == "text" else 0)
    transform = cfg.width * cfg.width + 3 * cfg.width if cfg.head_transform else 0
    return transform + (0 if cfg.tied else cfg.vocab * cfg.width) + (cfg.vocab if cfg.head_bias else 0)


def head_matrices(cfg: Config) -> int:
    """The weights of the head that multiply, its pooler or transform included."""
    before = cfg.width * cfg.width if cfg.head_transform or (cfg.labels and cfg.labels.each == "text") else 0
    return before + cfg.width * cfg.outputs


def matrices(cfg: Config) -> int:
    """The weights of all blocks that multiply, but the routers': those that Muon trains."""
    encoder = matrices(cfg.encoder) if cfg.encoder else 0
    return encoder + cfg.layers * block_matrices(cfg) + expert_layers(cfg) * expert_matrices(cfg)


def outputs(cfg: Config) -> int:
    """How many outputs all products but experts' have, the head's last one too."""
    towers = [cfg, *([cfg.encoder] if cfg.encoder else [])]
    experts = sum(expert_layers(tower) * feed_forward_outputs(tower) for tower in towers)
    return sum(tower.layers * block_outputs(tower) for tower in towers) - experts + cfg.outputs


def forward_flops(cfg: Config, length: int, source: int = 0, predicted: float = 1.0) -> float:
    """FLOPs of reading one row: `length` tokens and, for an encoder-decoder, `source` tokens before.

    Each weight that multiplies costs 2 FLOPs a token, and attention 4 T H D a token and layer (q k^T and the
    weighted sum of v), after Kaplan et al. 2020, table 1, and Chowdhery et al. 2022, appendix B. As there, what a
    causal mask saves is not taken off, so that shares of the peak compare with published ones. `predicted` is the
    share of positions where a prediction is asked for: the head's products run on these alone.
    """
    towers = stack_flops(cfg, length, source)
    if cfg.encoder:
        towers += stack_flops(cfg.encoder, source)
    return towers + 2 * length * predicted * head_matrices(cfg)


def stack_flops(cfg: Config, length: int, source: int = 0) -> float:
    """FLOPs of one tower over `length` tokens; its cross-attention's keys and values are made of `source` tokens."""
    keys_values = 2 * cfg.width * cfg.kv_heads * cfg.head if cfg.encoder else 0
    products = 2 * length * (block_matrices(cfg) - keys_values) + 2 * source * keys_values
    near = sum(map(cfg.is_local, range(cfg.layers))) if cfg.local else 0  # layers that look no further than a window
    own = (cfg.layers - near) * length + near * min(length, cfg.local.window if cfg.local else length)
    looks = 0 if cfg.recurrent else own + cfg.layers * (source if cfg.encoder else 0)  # in all layers
    routed = (cfg.experts.top - 1) * feed_forward_matrices(cfg) + router_matrices(cfg) if cfg.experts else 0
    experts = 2 * length * expert_layers(cfg) * routed  # a token passes k of them; capacity is not taken off
    return cfg.layers * products + 4.0 * length * looks * cfg.heads * cfg.head + experts


def training_flops(cfg: Config, length: int, source: int = 0, predicted: float = 1.0) -> float:
    """FLOPs of learning from one row: the way back costs twice the way forward, so three times the latter.

    For a decoder that is the usual 6 N + 12 L H D T a token, N without the embedding.
    """
    return 3.0 * forward_flops(cfg, length, source, predicted)


def flops_per_token(cfg: Config, length: int, source: int = 0, predicted: float = 1.0) -> float:
    """Training FLOPs per token read, those of the source included."""
    return training_flops(cfg, length, source, predicted) / (length + source)


def tokens_per_second(cfg: Config, speed: float, length: int, source: int = 0, predicted: float = 1.0) -> float:
    """Tokens read per second of training at `speed` FLOP/s (the machine's peak, times the share that is reached)."""
    return speed / flops_per_token(cfg, length, source, predicted)
