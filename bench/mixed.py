"""Requests of all lengths at once, ours against transformers in padded batches of 8: tokens/s, alternating, medians.

    python bench/mixed.py [--shape gpt2] [--requests 64] [--rounds 3] [--texts 32]

Random bfloat16 weights; prompts of 32 to 512 tokens and answers of 16 to 256, drawn evenly from seed 0, the same for
all. Ours takes all requests at once and has `--texts` of them under way; the peer takes them in order, 8 at a time,
padded to the longest prompt, and each batch is done when its longest answer is: as installed, with glibc told to keep
large blocks (`+alloc`), and sorted by the length of the answers too, which no server could know (`+sorted`).

Then what a shared beginning saves: seconds to the first token after 512 tokens that were read before and 16 that were
not, against the same prompt read whole.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from typing import Any

from child import measured
from decode import ALLOCATOR, clock, our_model, peer_model

SHARED = 512


def requests(count: int) -> list[tuple[list[int], int]]:
    """Prompts, and how many tokens each is to be answered with."""
    draw = random.Random(0)
    sizes = [(draw.randint(32, 512), draw.randint(16, 256)) for _ in range(count)]
    return [([draw.randrange(3, 400) for _ in range(prompt)], new) for prompt, new in sizes]


def ours(o: argparse.Namespace, int8: bool) -> dict[str, float]:
    from modelwright.infer.engine import Engine, Request
    from modelwright.infer.sample import Sampling

    ready, _ = our_model(o.shape, int8)
    asked = requests(o.requests)

    def write(some: list[tuple[list[int], int]]) -> int:
        engine = Engine(ready, longest=512 + 256, texts=o.texts)
        return sum(map(len, engine.run(Request(prompt, Sampling(new, 0.0)) for prompt, new in some)))

    write([(asked[0][0], 4)])
    start = time.perf_counter()
    tokens = write(asked)
    return {"speed": tokens / (time.perf_counter() - start), **first_token(ready)}


def first_token(ready: Any) -> dict[str, float]:
    """Seconds to the first token, of a prompt whose beginning was read before and of one whose was not."""
    from modelwright.infer.engine import Engine, Request
    from modelwright.infer.sample import Sampling

    draw = random.Random(1)

    def text(length: int) -> list[int]:
        return [draw.randrange(3, 400) for _ in range(length)]

    engine, found = Engine(ready), {"miss": [], "hit": []}  # type: ignore[var-annotated]
    for _ in range(5):
        shared = text(SHARED)
        for name in ("miss", "hit"):
            prompt = shared + text(16)
            found[name].append(clock(lambda prompt=prompt: engine.run([Request(prompt, Sampling(1, 0.0))])))  # type: ignore[misc]
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def peer(o: argparse.Namespace, in_order: bool) -> dict[str, float]:
    import torch

    model, asked = peer_model(o.shape), requests(o.requests)
    asked = asked if in_order else sorted(asked, key=lambda request: request[1])

    def write(some: list[tuple[list[int], int]]) -> None:
        longest = max(len(prompt) for prompt, _ in some)
        tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt, _ in some])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in some])
        with torch.inference_mode():
            model.generate(
                tokens, attention_mask=mask, max_new_tokens=max(new for _, new in some), do_sample=False, pad_token_id=0
            )

    write([(asked[0][0], 4)])
    start = time.perf_counter()
    for at in range(0, len(asked), 8):
        write(asked[at : at + 8])
    return {"speed": sum(new for _, new in asked) / (time.perf_counter() - start)}


def child(who: str, o: argparse.Namespace) -> dict[str, float]:
    return ours(o, "int8" in who) if who.startswith("ours") else peer(o, "sorted" not in who)


def measure(who: str, o: argparse.Namespace) -> dict[str, float]:
    numbers = [f"--{name}={getattr(o, name)}" for name in ("shape", "requests", "texts")]
    return measured(__file__, ["--child", who, *numbers], ALLOCATOR if "alloc" in who else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="gpt2", choices=["gpt2", "smol", "tiny"])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.child:
        return print(json.dumps(child(o.child, o)))
    names = ("ours", "ours int8", "peer", "peer+alloc", "peer+alloc+sorted")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(o.rounds):
        for name in names:
            found[name].append(measure(name, o))
    speed = {name: statistics.median(run["speed"] for run in runs) for name, runs in found.items()}
    for name in names:
        print(f"{name:<18} {speed[name]:8.1f} tokens/s   ours / this = {speed['ours'] / speed[name]:5.2f}")
    miss, hit = (statistics.median(run[key] for run in found["ours"]) for key in ("miss", "hit"))
    print(f"first token of {SHARED} + 16: {1e3 * miss:.0f} ms, {1e3 * hit:.0f} ms where {SHARED} were read before: "
          f"{miss / hit:.1f}x")  # fmt: skip


if __name__ == "__main__":
    main()
