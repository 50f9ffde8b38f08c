"""A training step, ours against transformers: tokens/s on the same shapes, alternating, medians.

    python bench/train.py [--shape gpt2|small] [--rounds 3] [--steps 4]

Each measurement is a process of its own, since the allocator's settings belong to the process. The peer runs as
installed, and again with glibc told to keep large blocks (`peer+alloc`), which ours does for itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

SHAPES = {
    "gpt2": {"family": "gpt2", "context": 512, "batch": 4},  # GPT-2 124M
    "small": {"family": "llama", "context": 256, "batch": 32},  # about 10M: width 320, 6 layers, V 4096
}
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def hf_config(shape: str):  # type: ignore[no-untyped-def]
    from transformers import GPT2Config, LlamaConfig

    if shape == "gpt2":
        return GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return LlamaConfig(
        vocab_size=4096,
        hidden_size=320,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )


def peer_step(shape: str) -> tuple[Callable[[], None], int]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(hf_config(shape)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    context, batch = SHAPES[shape]["context"], SHAPES[shape]["batch"]
    tokens = torch.randint(model.config.vocab_size, (batch, context))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, tokens.numel()


def our_step(shape: str) -> tuple[Callable[[], None], int]:
    from modelwright.train.allocator import keep_large_blocks

    keep_large_blocks()
    import torch

    from modelwright.data.pack import Batch
    from modelwright.losses.language import language_model
    from modelwright.model.families import FAMILIES
    from modelwright.model.transformer import Transformer, initialise
    from modelwright.train.loop import fit
    from modelwright.train.optim import make

    cfg = FAMILIES[SHAPES[shape]["family"]].read(hf_config(shape).to_dict())
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0)).train()
    optimizer = make(model, "adamw", lr=1e-4)
    context, batch = SHAPES[shape]["context"], SHAPES[shape]["batch"]
    tokens = torch.randint(cfg.vocab, (batch, context + 1))
    rows = Batch(
        tokens[:, :-1],
        tokens[:, 1:],
        torch.ones(batch, context),
        torch.arange(context).expand(batch, -1),
        torch.ones(batch, context, dtype=torch.long),
    )

    def step() -> None:
        fit(
            model,
            [rows],
            language_model,
            optimizer,
            steps=1,
            precision="bf16",
            schedule=lambda s: 1.0,
            after_step=lambda s, m: None,
        )

    return step, tokens[:, 1:].numel()


def measure(who: str, shape: str, steps: int) -> float:
    step, tokens = (our_step if who == "ours" else peer_step)(shape)
    step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return tokens / statistics.median(times)


def peak() -> float:
    """The best bf16 matrix product of this machine, FLOP/s."""
    import torch

    best = 0.0
    for m, k, n in ((2048, 768, 3072), (8192, 320, 1280)):
        x, w = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16()
        for _ in range(5):
            start = time.perf_counter()
            torch.nn.functional.linear(x, w)
            best = max(best, 2 * m * k * n / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", help="measure one of ours, peer, in this process")
    args = parser.parse_args()
    shapes = args.shape or list(SHAPES)
    if args.one:
        print(json.dumps(measure(args.one, shapes[0], args.steps)))
        return
    print(f"best bf16 product: {peak() / 1e12:.2f} TFLOP/s")
    for shape in shapes:
        rates: dict[str, list[float]] = {"peer": [], "peer+alloc": [], "ours": []}
        for _ in range(args.rounds):
            for who, found in rates.items():
                env = os.environ | (ALLOCATOR if who.endswith("alloc") else {})
                command = [sys.executable, __file__, "--one", who[:4], "--shape", shape, "--steps", str(args.steps)]
                out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
                found.append(float(out.splitlines()[-1]))
        ours = statistics.median(rates["ours"])
        for who, found in rates.items():
            rate = statistics.median(found)
            print(f"{shape:6} {who:11} {rate:8.0f} tokens/s   ours / this = {ours / rate:.2f}")


if __name__ == "__main__":
    main()
