"""A model's shape in numbers, from its Config alone: `modelwright inspect MODEL`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelwright.adapt.open import Shape
from modelwright.model.config import Config, Routing
from modelwright.plan.cost import active_parameters, forward_flops, parameters, parameters_by_layer, parameters_by_part
from modelwright.plan.memory import inference, rounded

LACKING = ("heads", "kv_heads", "head_width", "feed_forward", "activation", "norm", "positions")  # by an LSTM
GROUP = 128  # weights that share a scale in four bits

# What is said of a number format beside its bytes. Int8 is what infer/packed.py makes of a decoder as it is opened; the
# weights that it was made of stay.
FORMATS = {
    "float32": "runs: --precision fp32, the default",
    "bfloat16": "runs: --precision bf16",
    "float16": "arithmetic: no command runs it",
    "int8": "runs: --precision int8",
    "int4": "arithmetic: no command runs it",
}


def tell(name: str, shape: Shape) -> dict[str, Any]:
    """All that is told, as numbers: parameters, bytes, FLOPs."""
    cfg = shape.config
    total = parameters(cfg)
    return {
        "model": name,
        "shape": described(cfg) | {"family": shape.family, "source": shape.source},
        "parameters": {
            "total": total,
            "active": active_parameters(cfg),
            "adapter": shape.added,
            "parts": by_part(cfg),
        },
        "bytes": formats(cfg),
        "cache": cache(cfg),
        "flops": flops(cfg),
    }


def described(cfg: Config) -> dict[str, Any]:
    """The Config in the field's words; of an encoder-decoder the decoder's tower, and the encoder's beside it."""
    said = {
        "kind": "LSTM" if cfg.recurrent else cfg.shape,
        "layers": cfg.layers,
        "width": cfg.width,
        "heads": cfg.heads,
        "kv_heads": cfg.kv_heads,
        "head_width": cfg.head,
        "feed_forward": cfg.ffn,
        "activation": cfg.act + (", gated" if cfg.gated else ""),
        "norm": norms(cfg),
        "positions": positions(cfg),
        "context": cfg.context,
        "vocabulary": cfg.vocab,
        "tied": cfg.tied,
        "labels": list(cfg.labels.names) if cfg.labels else None,
    }
    if cfg.experts:
        said["experts"] = experts(cfg, cfg.experts)
    return said | ({"encoder": described(cfg.encoder)} if cfg.encoder else {})


def experts(cfg: Config, routing: Routing) -> str:
    some = sum(map(routing.at, range(cfg.layers)))
    room = "" if routing.capacity is None else f"; at most {routing.capacity:,} tokens of a row to each"
    return f"{routing.count}, of which a token passes {routing.top}, in {some} of {cfg.layers} layers{room}"


def norms(cfg: Config) -> str:
    place = "both before and after" if cfg.part_norm else "before" if cfg.pre_norm else "after"
    kind = "LayerNorm" if cfg.norm == "layer" else "RMSNorm"
    each = f"{kind}, one before both parts of a block" if cfg.parallel else f"{kind}, {place} each part"
    return each + ("; of queries and keys too" if cfg.qk_norm else "")


def positions(cfg: Config) -> str:
    found = [name for name, there in (("learned", cfg.learned), ("sinusoidal", cfg.sinusoidal)) if there]
    if cfg.rope:
        found.append(f"rotary, base {cfg.rope.base:g}" + (", stretched" if stretched(cfg) else ""))
    if cfg.relative:
        found.append(f"relative, {cfg.relative.buckets} buckets to a distance of {cfg.relative.distance}")
    if cfg.alibi:
        found.append("ALiBi")
    if cfg.local:
        some = sum(map(cfg.is_local, range(cfg.layers)))
        found.append(f"a window of {cfg.local.window:,} tokens in {some} of {cfg.layers} layers")
    return "; ".join(found) or "none"


def stretched(cfg: Config) -> bool:
    return cfg.rope is not None and (cfg.rope.scaling is not None or cfg.rope.stretch != 1)


def by_part(cfg: Config) -> dict[str, Any]:
    """Parameters of each part, and of each kind of layer in the towers."""
    layers = {"encoder": parameters_by_layer(cfg.encoder) if cfg.encoder else {}, "stack": parameters_by_layer(cfg)}
    return {
        part: {"all": count, "layers": {name: n for name, n in layers.get(part, {}).items() if n}}
        for part, count in parameters_by_part(cfg).items()
    }


def formats(cfg: Config) -> dict[str, int]:
    """Bytes of the weights in each number format."""
    return {
        "float32": inference(cfg, 0, 0).weights,
        "bfloat16": inference(cfg, 0, 0, number=2).weights,
        "float16": inference(cfg, 0, 0, number=2).weights,
        "int8": rounded(cfg, 8),
        "int4": rounded(cfg, 4, number=2, group=GROUP),
    }


def cache(cfg: Config) -> dict[str, int] | None:
    """Bytes of keys and values in float32, half of it in 16 bits; None for an encoder, which keeps none."""
    if cfg.shape == "encoder":
        return None
    source = cfg.encoder.context if cfg.encoder else 0
    return {
        "per_token": inference(cfg, 1, 1).cache,
        "full_context": inference(cfg, 1, cfg.context, source).cache,
    }


def flops(cfg: Config) -> dict[str, float]:
    """Of reading or writing a token: with nothing else to look at, and with a full context; of an encoder-decoder the
    mean over a source and an answer of that length."""

    def each(length: int) -> float:
        source = min(length, cfg.encoder.context) if cfg.encoder else 0
        return forward_flops(cfg, length, source) / (length + source)

    return {"alone": each(1), "full_context": each(cfg.context)}


# -- to read ------------------------------------------------------------------------------------------------


def show(screen: Console, told: dict[str, Any]) -> None:
    screen.print(Text(told["model"]))
    screen.print(pairs(list(shape_rows(told["shape"]))))
    screen.print(parts(told["parameters"]))
    screen.print(sizes(told))


def pairs(rows: list[tuple[str, str]]) -> Table:
    found = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        found.add_row(*map(Text, row))
    return found


def shape_rows(said: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "family", f"{said['family']}, {said['kind']}"
    if said["source"]:
        yield "source", said["source"]
    encoder = said.get("encoder")
    lacking = LACKING if said["kind"] == "LSTM" else ()
    for name in ("layers", "width", "heads", "kv_heads", "head_width", "feed_forward", "experts", "activation",
                 "norm", "positions", "context", "vocabulary"):  # fmt: skip
        if name in lacking or name not in said:
            continue
        value = f"{said[name]:,}" if isinstance(said[name], int) else said[name]
        other = "" if not encoder or encoder.get(name) == said[name] else f" (encoder: {encoder.get(name, 'none')})"
        yield name.replace("_", " "), value + other
    own = f"over {len(said['labels'])} labels" if said["labels"] else "its own weights"
    yield "head", "tied to the embedding" if said["tied"] else own


def parts(said: dict[str, Any]) -> Table:
    total = said["total"]
    found = Table(box=None, pad_edge=False, header_style="", title_justify="left")
    found.add_column("\nparameters")
    for heading in ("", ""):
        found.add_column(heading, justify="right")
    for part, counted in said["parts"].items():
        if counted["all"] or part == "head":
            found.add_row(part, f"{counted['all']:,}", f"{counted['all'] / total:.1%}")
        for name, n in counted["layers"].items():
            found.add_row(f"  {name}", f"{n:,}", f"{n / total:.1%}")
    found.add_row("total", f"{total:,}", "")
    if said["active"] < total:
        found.add_row("active, of a token", f"{said['active']:,}", f"{said['active'] / total:.1%}")
    if said["adapter"]:
        found.add_row("adapter, beside these", f"{said['adapter']:,}", f"{said['adapter'] / total:.1%}")
    return found


def sizes(told: dict[str, Any]) -> Table:
    found = Table(box=None, pad_edge=False, header_style="")
    found.add_column("\nmemory of the weights")
    found.add_column("", justify="right")
    found.add_column("")
    encoder = told["shape"].get("encoder")
    for name, size in told["bytes"].items():
        apart = encoder and name == "int8"
        found.add_row(name, human(size), "arithmetic: the command rounds the decoder alone" if apart else FORMATS[name])
    if told["cache"] is None:
        found.add_row("cache", "none", "an encoder keeps no keys and values")
    else:
        kept, said = told["cache"], told["shape"]
        shared = said["kind"] != "LSTM" and said["kv_heads"] < said["heads"]
        number = "float32; half of it in bfloat16" if shared else "float32, with --precision bf16 too"  # cache_dtype
        source = f" and {encoder['context']:,} of a source" if encoder else ""
        found.add_row("cache of a token", human(kept["per_token"]), number)
        found.add_row("cache of a context", human(kept["full_context"]), f"{told['shape']['context']:,} tokens{source}")
    found.add_row("FLOPs of a token", f"{told['flops']['alone']:.3g}", "with nothing before it")
    found.add_row("", f"{told['flops']['full_context']:.3g}", "with a full context")
    return found


def human(size: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} B"
