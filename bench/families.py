"""What each family's path costs: decoding and training at one shape, as ratios to Llama's in the same run.

    python bench/families.py [--only mistral bloom] [--rounds 5]

All have the same width, layers, heads, feed-forward width, vocabulary and context, so that they differ in their paths
alone: windows, slopes, norms, biases. A feed-forward that is not gated has one product fewer: hold those against `gpt2`
too. Each family and Llama take turns; a ratio is to the mean of the Llama before and after, and the median is shown,
with the lowest and the highest. Weights are random: float32 for training, with products in bfloat16; packed bfloat16
for decoding, where 8 texts of 64 tokens are continued by 64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch

from modelwright.data.pack import Batch
from modelwright.infer.engine import Engine, Request
from modelwright.infer.packed import prepare
from modelwright.infer.sample import Sampling
from modelwright.losses.language import language_model
from modelwright.model.transformer import Config, Local, Rope, Transformer, initialise
from modelwright.train.allocator import keep_large_blocks
from modelwright.train.optim import make

LLAMA = Config(
    vocab=4096, width=256, layers=6, heads=8, kv_heads=8, head=32, ffn=704, context=512, rope=Rope()
)  # fmt: skip
GPT2 = replace(
    LLAMA, norm="layer", act="gelu_tanh", gated=False, attn_bias=True, ffn_bias=True, rope=None, learned=True
)
FAMILIES = {
    "llama": LLAMA,
    "gpt2": GPT2,
    "bloom": replace(GPT2, learned=False, alibi=True, embed_norm=True),
    "mistral": replace(LLAMA, local=Local(128)),
    "qwen2": replace(LLAMA, qkv_bias=True),
    "qwen3": replace(LLAMA, qk_norm=True),
    "gemma3_text": replace(
        LLAMA, norm="rms_from_one", qk_norm=True, part_norm=True, embed_scale=16.0, act="gelu_tanh",
        local=Local(128, (0, 1, 2, 3, 4), Rope()),
    ),
    "palm": replace(LLAMA, parallel=True, norm="layer", norm_bias=False),
    "llama-alibi": replace(LLAMA, rope=None, alibi=True),
    "llama-sines": replace(LLAMA, rope=None, sinusoidal=True, embed_scale=16.0),
}  # fmt: skip
ROWS, LENGTH = 4, 256  # of a training batch
TEXTS, PROMPT, NEW = 8, 64, 64


def trained(cfg: Config) -> Callable[[], int]:
    """A training step; it says how many tokens it read."""
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0)).train()
    optimizer = make(model, "adamw", lr=1e-4)
    tokens = torch.randint(cfg.vocab, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    pos = torch.arange(LENGTH).expand(ROWS, -1)
    weight = torch.ones(ROWS, LENGTH)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], weight, pos, torch.ones_like(pos))

    def step() -> int:
        with torch.autocast("cpu", torch.bfloat16):
            loss, many, _ = language_model(model, batch)[0]["loss"]
        (loss / many).backward()
        optimizer.step()
        optimizer.zero_grad()
        return ROWS * LENGTH

    return step


def decoded(cfg: Config) -> Callable[[], int]:
    """Some texts written; it says how many tokens were."""
    model = prepare(initialise(Transformer(cfg), torch.Generator().manual_seed(0)).bfloat16().eval())
    prompts = torch.randint(3, cfg.vocab, (TEXTS, PROMPT), generator=torch.Generator().manual_seed(1)).tolist()

    def write() -> int:
        engine = Engine(model, longest=PROMPT + NEW)
        return sum(map(len, engine.run(Request(prompt, Sampling(NEW, 0.0)) for prompt in prompts)))

    return write


def speed(work: Callable[[], int]) -> float:
    """Tokens/s of the processor's time, which neighbours on a core do not take: of one thread that is the clock's."""
    start = time.process_time()
    done = work()
    return done / (time.process_time() - start)


def shares(llama: Callable[[], int], other: Callable[[], int], rounds: int) -> tuple[list[float], float]:
    """Of each round, the other's speed over the mean of Llama's just before and just after; and Llama's median."""
    for work in (llama, other):
        work()  # once, to warm
    theirs, ours = [speed(llama)], []
    for _ in range(rounds):
        ours.append(speed(other))
        theirs.append(speed(llama))
    means = [(before + after) / 2 for before, after in pairwise(theirs)]
    return [one / mean for one, mean in zip(ours, means, strict=True)], statistics.median(theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES)[1:])
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args()
    keep_large_blocks()
    torch.set_num_threads(1)
    for title, made in (("training", trained), ("decoding", decoded)):
        llama = made(LLAMA)
        for name in said.only:
            found, speed_of_llama = shares(llama, made(FAMILIES[name]), said.rounds)
            middle, low, high = statistics.median(found), min(found), max(found)
            print(f"{title}  {name:12} {middle:.2f} ({low:.2f} to {high:.2f}) of {speed_of_llama:.0f}/s", flush=True)


if __name__ == "__main__":
    main()
