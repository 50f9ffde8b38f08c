"""A layer of experts against the plain loop, a masked loop, and transformers' Mixtral block: milliseconds a call.

    python bench/experts.py [--width 256] [--ffn 704] [--experts 8]

Forward alone, without gradients, as when writing (1 and 8 tokens) and when reading (4096); and there and back, as in
training. All four compute the same, which is checked first; the fastest of several calls counts. `packed` is the layer
as infer/packed.py prepares it for writing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from modelwright.infer.packed import PackedExperts
from modelwright.model.experts import Experts, Routing, Rows

Layer = Callable[[Tensor], Tensor]


def masked_loop(layer: Experts, x: Tensor) -> Tensor:
    """For each expert the tokens that chose it, found by a mask: what most implementations do."""
    weight, chosen = (each.flatten(0, 1) for each in layer.route(x, Rows()))
    tokens, out, expert = x.flatten(0, 1), torch.zeros_like(x.flatten(0, 1)), layer.experts()
    for e in range(layer.cfg.count):
        row, slot = (chosen == e).nonzero(as_tuple=True)
        if len(row):
            out = out.index_add(0, row, expert(e, tokens[row]) * weight[row, slot, None])
    return out.view(x.shape)


def theirs(layer: Experts) -> torch.nn.Module:
    """transformers' Mixtral block with the same weights."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    E, ffn, width = layer.up.shape
    config = MixtralConfig(
        hidden_size=width, intermediate_size=ffn, num_local_experts=E, num_experts_per_tok=layer.cfg.top
    )
    config._experts_implementation = "eager"
    block = MixtralSparseMoeBlock(config)
    assert layer.gate is not None
    with torch.no_grad():
        block.gate.weight.copy_(layer.router.weight)
        block.experts.gate_up_proj.copy_(torch.cat([layer.gate, layer.up], 1))
        block.experts.down_proj.copy_(layer.down)
    return block


def best(call: Callable[[], object], seconds: float = 2.0) -> float:
    """Milliseconds of the fastest call within so many seconds, of two at least."""
    call()
    found, end = [], time.perf_counter() + seconds
    while len(found) < 2 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return 1000 * min(found)


def both_ways(layer: Layer, x: Tensor) -> Callable[[], object]:
    def call() -> None:
        layer(x).square().sum().backward()

    return call


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("width", 256), ("ffn", 704), ("experts", 8), ("top", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.manual_seed(0)
    layer = Experts(Routing(args.experts, args.top, normalised=True), args.width, args.ffn, F.silu, True)
    packed = PackedExperts(layer)
    ways: dict[str, Layer] = {
        "plain": layer.one_by_one, "masked": lambda x: masked_loop(layer, x), "theirs": theirs(layer),
        "ours": layer, "packed": packed,
    }  # fmt: skip
    print(f"{'tokens':>7} {'':>10}" + "".join(f"{name:>10}" for name in ways))
    for tokens in (1, 8, 64, 4096):
        x = torch.randn(1, tokens, args.width)
        with torch.no_grad():
            for name, way in ways.items():
                torch.testing.assert_close(way(x), layer(x), atol=1e-5, rtol=1e-4, msg=name)
            said = [best(partial(way, x)) for way in ways.values()]
        print(f"{tokens:>7} {'forward':>10}" + "".join(f"{ms:>10.3f}" for ms in said), flush=True)
        x.requires_grad_()
        said = [best(both_ways(way, x)) for name, way in ways.items() if name != "packed"]
        print(f"{tokens:>7} {'and back':>10}" + "".join(f"{ms:>10.3f}" for ms in said), flush=True)


if __name__ == "__main__":
    main()
