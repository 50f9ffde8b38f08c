"""What each family's path costs: decoding and training at one shape, as ratios to Llama's in the same run.

    python bench/families.py [--only mistral bloom] [--rounds 5]

Every family has the same width, layers, heads, feed-forward width, vocabulary and context, so that they differ in their
paths alone: windows, slopes, norms, biases. Those whose feed-forward is not gated have one product fewer: `gpt2` is what
they are to be held against as well. Rounds alternate between families; each ratio is of one round, to the mean of the
Llama before and after it, and the median is shown, with the lowest and the highest. Weights are random: float32 for
training, with products in bfloat16; packed bfloat16 for decoding, where 8 texts of 64 tokens are continued by 64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

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
ROWS, LENGTH = 8, 256  # of a training batch
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


def ratios(works: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Of each family and round, its speed over Llama's just before and just after."""
    for work in works.values():
        work()  # once, to warm
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        before = speed(works["llama"])
        found["llama"].append(before)
        for name in works:
            if name != "llama":
                mine, after = speed(works[name]), speed(works["llama"])
                found[name].append(mine / statistics.mean([before, after]))
                before = after
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args()
    keep_large_blocks()
    torch.set_num_threads(1)
    for title, make_work in (("training", trained), ("decoding", decoded)):
        works = {name: make_work(FAMILIES[name]) for name in dict.fromkeys(["llama", *said.only])}
        found = ratios(works, said.rounds)
        print(f"\n{title}: llama {statistics.median(found.pop('llama')):.0f} tokens/s, and of the others their share")
        for name, shares in found.items():
            print(f"  {name:12}  {statistics.median(shares):.2f}  ({min(shares):.2f} to {max(shares):.2f})", flush=True)


if __name__ == "__main__":
    main()
