"""The families with experts in the place of feed-forwards: each is a dense one, some of whose lines are others.

Switch Transformers (Fedus et al. 2021) are T5s, Mixtral (Jiang et al. 2024) is a Llama. A Llama of which only some
layers have experts, or of which a token passes one, no published family holds; `modelwright-experts` is our own word
for it. What only training knows of, the routers' z-loss, is passed over.
"""

from dataclasses import asdict, fields, replace
from typing import Any

from modelwright.model.config import Config, Routing
from modelwright.model.decoder_families import LLAMA
from modelwright.model.family import (
    ACTS,
    Family,
    Json,
    Name,
    activation,
    key_of,
    known,
    number,
    only,
    positive,
    rate,
    size,
    unsupported,
    yes,
)
from modelwright.model.seq2seq_families import T5

# -- Mixtral: a Llama with experts in every layer, two of which a token passes ------------------------------


MIXTRAL_MODELS = ("MixtralForCausalLM", "MixtralModel")


def _read_mixtral(config: Json) -> Config:
    known(config, MIXTRAL_MODELS)
    only(config, sliding_window=(None,), attention_bias=(False,), mlp_bias=(False,))
    settled = {"num_key_value_heads": 8, "rms_norm_eps": 1e-5}  # where a Llama has another default
    rope = {} if config.get("rope_parameters") else {"rope_theta": positive(config, "rope_theta", 1e6)}
    routing = Routing(
        size(config, "num_local_experts", default=8),
        top=size(config, "num_experts_per_tok", default=2),
        normalised=True,
        balance=number(config, "router_aux_loss_coef", 0.001),
        jitter=rate(config, "router_jitter_noise", 0.0),
    )
    return replace(LLAMA.read({**settled, **config, **rope, "architectures": []}), experts=routing)


def _write_mixtral(cfg: Config) -> dict[str, Any]:
    dense = {key: value for key, value in LLAMA.write(cfg).items() if key not in ("attention_bias", "mlp_bias")}
    routing = cfg.experts or Routing(1)
    return dense | {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": routing.count,
        "num_experts_per_tok": routing.top,
        "router_aux_loss_coef": routing.balance,
        "router_jitter_noise": routing.jitter,
        "sliding_window": None,
    }


_MOE = "model.layers.{}.block_sparse_moe"
_W1, _W2, _W3 = (f"{_MOE}.experts.{{}}.{w}.weight" for w in ("w1", "w2", "w3"))

MIXTRAL = Family(
    "mixtral",
    MIXTRAL_MODELS,
    _read_mixtral,
    _write_mixtral,
    names=(
        Name("stack.blocks.{}.ffn.router", (f"{_MOE}.gate",)),
        Name("stack.blocks.{}.ffn.gate", (_W1,), stacked=True),
        Name("stack.blocks.{}.ffn.up", (_W3,), stacked=True),
        Name("stack.blocks.{}.ffn.down", (_W2,), stacked=True),
        *LLAMA.names,
    ),
    # transformers 5 keeps a layer's experts as stacks of other names, and takes them apart when it saves
    older=(*LLAMA.older, (r"\.mlp\.(?=(gate|experts)\.)", ".block_sparse_moe.")),
    buffers=LLAMA.buffers,
    fused=(
        (r"model\.layers\.(\d+)\.block_sparse_moe\.experts\.gate_up_proj", (_W1, _W3)),
        (r"model\.layers\.(\d+)\.block_sparse_moe\.experts\.down_proj", (_W2,)),
    ),
)


# -- Switch Transformers: a T5 with experts in every so many-th layer, one of which a token passes ----------


SWITCH_MODELS = ("SwitchTransformersForConditionalGeneration",)
UNLIMITED = 10**6  # tokens of a row that an expert takes, where none is to be dropped: a number must be said


def sparse_layers(layers: int, sparse: int) -> tuple[int, ...] | None:
    """Which of `layers` have experts where `sparse` are asked for, as transformers has it: None for all.

    Where none are asked for, the second layer has them nonetheless, or the only one.
    """
    step = layers // sparse if sparse else layers
    return None if step <= 1 else tuple(i for i in range(layers) if i % step == 1)


def sparse_count(cfg: Config) -> int:
    """How many to ask for, to have those of `cfg`; 0 where no number gives them."""
    layers = cfg.experts.layers if cfg.experts else ()
    return next((n for n in range(1, cfg.layers + 1) if sparse_layers(cfg.layers, n) == layers), 0)


def _read_switch(config: Json) -> Config:
    known(config, SWITCH_MODELS)
    only(config, router_bias=(False,), router_dtype=("float32",), is_encoder_decoder=(True,))
    only(config, tie_word_embeddings=(True,))  # untied, each of transformers' towers has an embedding of its own
    bend = {"feed_forward_proj": None, "is_gated_act": None, "dense_act_fn": None, "scale_decoder_outputs": True}
    dense = T5.read({**config, **bend, "architectures": []})
    assert dense.encoder is not None
    encoder = _sparse(dense.encoder, config, "encoder")
    return replace(_sparse(dense, config, "decoder"), encoder=encoder)


def _sparse(tower: Config, config: Json, name: str) -> Config:
    """A tower with the experts that a config.json tells of it."""
    key = f"num_sparse_{name}_layers"
    sparse = 0 if config.get(key) == 0 else size(config, key, default=3)
    if sparse > tower.layers:
        raise unsupported(config, key, f"at most {tower.layers}, the layers that there are")
    step = tower.layers // sparse if sparse else tower.layers  # said too, and by transformers taken for what counts
    only(config, **{f"{name}_sparse_step": (step,)})
    capacity = size(config, "expert_capacity", default=64)
    factor = None if config.get("capacity_factor") is None else positive(config, "capacity_factor", 1.0)  # our word
    routing = Routing(
        size(config, "num_experts", default=8),
        layers=sparse_layers(tower.layers, sparse),
        capacity_factor=factor,
        capacity=None if capacity >= UNLIMITED else capacity,
        balance=number(config, "router_aux_loss_coef", 0.001),
        jitter=rate(config, "router_jitter_noise", 0.01),
    )
    return replace(tower, act=activation(config, "dense_act_fn", "relu"), experts=routing)


def _write_switch(cfg: Config) -> dict[str, Any]:
    left_out = ("feed_forward_proj", "is_gated_act", "scale_decoder_outputs")
    dense = {key: value for key, value in T5.write(cfg).items() if key not in left_out}
    routing = cfg.experts or Routing(1)
    return dense | {
        "model_type": "switch_transformers",
        "architectures": list(SWITCH_MODELS),
        "dense_act_fn": key_of(ACTS, cfg.act),
        "num_experts": routing.count,
        "num_sparse_encoder_layers": sparse_count(cfg.encoder or cfg),
        "num_sparse_decoder_layers": sparse_count(cfg),
        "expert_capacity": routing.capacity or UNLIMITED,
        "capacity_factor": routing.capacity_factor,
        "router_aux_loss_coef": routing.balance,
        "router_jitter_noise": routing.jitter,
    }


def _switch_tower(ours: str, theirs: str, ffn: int) -> tuple[Name, ...]:
    """The names of the experts in one of the two towers, whose feed-forward is the `ffn`-th part of a block."""
    block, mlp = f"{ours}.blocks.{{}}.ffn", f"{theirs}.block.{{}}.layer.{ffn}.mlp"
    return (
        Name(f"{block}.router", (f"{mlp}.router.classifier",)),
        Name(f"{block}.up", (f"{mlp}.experts.expert_{{}}.wi.weight",), stacked=True),
        Name(f"{block}.down", (f"{mlp}.experts.expert_{{}}.wo.weight",), stacked=True),
    )


SWITCH = Family(
    "switch_transformers",
    SWITCH_MODELS,
    _read_switch,
    _write_switch,
    names=(
        *_switch_tower("encoder", "encoder", ffn=1),
        *_switch_tower("stack", "decoder", ffn=2),
        *(replace(n, theirs=tuple(their.replace("DenseReluDense", "mlp") for their in n.theirs)) for n in T5.names),
    ),
    copies=T5.copies,
    aside=T5.aside,
)


# -- our own: a Llama of which any layers have any experts --------------------------------------------------


OWN_MODELS = ("ModelwrightExperts",)


def _read_own(config: Json) -> Config:
    known(config, OWN_MODELS)
    said, names = config.get("experts"), [field.name for field in fields(Routing)]
    if not isinstance(said, dict) or not set(said) <= set(names):
        raise unsupported(config, "experts", f"an object of {', '.join(names)}")
    said = {"model_type": f"{config['model_type']}, experts", **said}
    layers = said.get("layers")
    if layers is not None and (not isinstance(layers, list) or not all(type(layer) is int for layer in layers)):
        raise unsupported(said, "layers", "a list of layers, from 0; or null, for all")
    routing = Routing(
        size(said, "count"),
        top=size(said, "top", default=1),
        layers=None if layers is None else tuple(layers),
        normalised=yes(said, "normalised", False),
        capacity_factor=None if said.get("capacity_factor") is None else positive(said, "capacity_factor", 1.0),
        capacity=None if said.get("capacity") is None else size(said, "capacity"),
        balance=number(said, "balance", 0.01),
        jitter=rate(said, "jitter", 0.0),
    )
    return replace(LLAMA.read({**config, "architectures": []}), experts=routing)


def _write_own(cfg: Config) -> dict[str, Any]:
    named = {"model_type": "modelwright-experts", "architectures": list(OWN_MODELS)}
    routing = asdict(cfg.experts or Routing(1))
    layers = None if routing["layers"] is None else list(routing["layers"])
    return {**LLAMA.write(cfg), **named, "experts": routing | {"layers": layers}}


OWN = replace(MIXTRAL, model_type="modelwright-experts", architectures=OWN_MODELS, read=_read_own, write=_write_own)
