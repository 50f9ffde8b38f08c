"""Greedy decoding, ours against transformers: tokens/s and time to the first token, alternating, medians.

    python bench/decode.py [--shapes gpt2 smol] [--batches 1 8] [--rounds 3] [--prompt 128] [--new 128] [--compile]

Weights are random and bfloat16, or of eight bits (`ours int8`). A figure is of a whole `generate`: the prompt is read
and `new` tokens are written for each row; the first token is timed after a prompt of 512 tokens of one row. Packing
our weights, once a process, is a column of its own. Each measurement is a process of its own, since the allocator's
settings belong to the process: the peer runs as installed (a growing cache), again with glibc told to keep large
blocks (`peer+alloc`), which ours does for itself, and with --compile also with its static cache and torch.compile. The
machine's limits come first and last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from child import measured

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
FIRST = 512  # tokens of the prompt whose first token is timed


def clock(f: Callable[[], object]) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


# -- one measurement, in a process of its own ----------------------------------------------------


def our_model(shape: str, int8: bool = False) -> tuple[Any, float]:
    """A random model made ready for decoding, and what that took, in seconds."""
    import torch

    from modelwright.infer.packed import prepare
    from modelwright.model.transformer import Config, Rope, Transformer, initialise
    from modelwright.train.allocator import keep_large_blocks

    keep_large_blocks()
    cfg = {
        "gpt2": Config(
            vocab=50257, width=768, layers=12, heads=12, kv_heads=12, head=64, ffn=3072, context=1024, norm="layer",
            act="gelu_tanh", gated=False, attn_bias=True, ffn_bias=True, learned=True,
        ),
        "smol": Config(
            vocab=49152, width=576, layers=30, heads=9, kv_heads=3, head=64, ffn=1536, context=2048, rope=Rope()
        ),
        "tiny": Config(vocab=500, width=64, layers=2, heads=2, kv_heads=1, head=32, ffn=128, context=1024, rope=Rope()),
    }[shape]  # fmt: skip
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0)).bfloat16().eval()
    start = time.perf_counter()
    ready = prepare(model, int8)
    return ready, time.perf_counter() - start


def ours(shape: str, int8: bool) -> tuple[Callable[[Any, int], int], float]:
    """Writes new tokens after a batch of prompts, and says how many; and what packing took, in seconds."""
    from modelwright.infer.engine import Engine, Request
    from modelwright.infer.sample import Sampling

    ready, packing = our_model(shape, int8)

    def write(prompts: Any, new: int) -> int:
        engine = Engine(ready, longest=prompts.size(1) + new)
        return sum(map(len, engine.run(Request(prompt, Sampling(new, 0.0)) for prompt in prompts.tolist())))

    return write, packing


def peer_model(shape: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    cfg = {
        "gpt2": lambda: GPT2Config(),
        "smol": lambda: llama(LlamaConfig, 49152, 576, 30, 9, 3, 1536),
        "tiny": lambda: llama(LlamaConfig, 500, 64, 2, 2, 1, 128),
    }[shape]()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(cfg).bfloat16().eval()
    model.generation_config.eos_token_id = None
    return model


def peer(shape: str, compiled: bool) -> tuple[Callable[[Any, int], int], float]:
    import torch

    model = peer_model(shape)
    more = {"cache_implementation": "static"} if compiled else {}
    if compiled:
        model.forward = torch.compile(model.forward)

    def write(prompts: Any, new: int) -> int:
        mask = torch.ones_like(prompts)
        with torch.inference_mode():
            out = model.generate(
                prompts, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0, **more
            )
        return out[:, prompts.size(1) :].numel()

    return write, 0.0


def llama(config: Any, vocab: int, width: int, layers: int, heads: int, kv_heads: int, ffn: int) -> Any:
    return config(
        vocab_size=vocab, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, intermediate_size=ffn, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip


def child(who: str, shape: str, batch: int, prompt: int, new: int) -> dict[str, float]:
    """tokens/s, and seconds to the first token after a prompt of 512."""
    import torch

    write, packing = ours(shape, "int8" in who) if who.startswith("ours") else peer(shape, "compile" in who)
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, 400, (batch, prompt), generator=draw)
    long = torch.randint(3, 400, (1, FIRST), generator=draw)
    write(prompts, new if "compile" in who else 4)  # warm; compiling wants the shapes it will meet
    seconds = clock(lambda: write(prompts, new))
    write(long, 1)
    first = statistics.median(clock(lambda: write(long, 1)) for _ in range(3))
    return {"speed": batch * new / seconds, "first": first, "packing": packing}


def limits() -> dict[str, float]:
    """GB/s: reading, in a sum; and reading bfloat16 weights in products with one row, plain and packed."""
    import torch

    def best(f: Callable[[], object]) -> float:
        f()
        return min(clock(f) for _ in range(7))

    big = torch.ones(2**27)
    weights = [torch.randn(3072, 768).bfloat16() for _ in range(40)]  # more than the processor's caches hold
    packed = [torch.ops.mkldnn._reorder_linear_weight(w, 8) for w in weights]
    x, size = torch.randn(1, 768).bfloat16(), 40 * 3072 * 768 * 2
    linear = torch.ops.mkldnn._linear_pointwise
    with torch.inference_mode():
        return {
            "read": big.nbytes / best(lambda: big.sum()) / 1e9,
            "gemv": size / best(lambda: [torch.nn.functional.linear(x, w) for w in weights]) / 1e9,
            "packed gemv": size / best(lambda: [linear(x, w, None, "none", [], "") for w in packed]) / 1e9,
        }


# -- the comparison ------------------------------------------------------------------------------


def measure(*words: object, env: dict[str, str] | None = None) -> dict[str, float]:
    return measured(__file__, ["--child", *words], env)


def compare(shape: str, batch: int, o: argparse.Namespace) -> None:
    names = ["ours", "ours int8", "peer", "peer+alloc", *(["peer+compile"] if o.compile else [])]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(o.rounds):
        for name in names:
            env = ALLOCATOR if "alloc" in name else None
            found[name].append(measure(name, shape, batch, o.prompt, o.new, env=env))
    median = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    mine = median["ours"]
    for name, theirs in median.items():
        print(
            f"{shape:>6} {batch:>5} {name:<13} {theirs['speed']:>9.1f} {mine['speed'] / theirs['speed']:>6.2f}x "
            f"{1e3 * theirs['first']:>9.0f} {theirs['first'] / mine['first']:>6.2f}x {1e3 * theirs['packing']:>8.0f}",
            flush=True,
        )


def say_limits() -> None:
    print("machine, GB/s: " + ", ".join(f"{name} {value:.1f}" for name, value in measure("limits").items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["gpt2", "smol"], choices=["gpt2", "smol", "tiny"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--compile", action="store_true", help="also the peer's static cache with torch.compile")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.child == ["limits"]:
        return print(json.dumps(limits()))
    if o.child:
        who, shape, *numbers = o.child
        return print(json.dumps(child(who, shape, *map(int, numbers))))
    say_limits()
    head = ("shape", "batch", "who", "tokens/s", "ours", "first, ms", "ours", "pack, ms")
    print("{:>6} {:>5} {:<13} {:>9} {:>7} {:>9} {:>7} {:>8}".format(*head))
    for shape in o.shapes:
        for batch in o.batches:
            compare(shape, batch, o)
    say_limits()


if __name__ == "__main__":
    main()
