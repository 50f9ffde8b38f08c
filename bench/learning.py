"""Time to learn: ours against nanoGPT's CPU recipe with transformers' GPT-2, on tinyshakespeare's characters.

    MODELWRIGHT_DATA=... python bench/learning.py [--rounds 3]

The peer's recipe as published (nanoGPT's README, "I only have a macbook"): 4 layers, 4 heads, width 128, context 64,
batches of 12, 2,000 steps of AdamW (rate 1e-3 falling to 1e-4 by a cosine, 100 steps of warm-up, beta2 0.99, decay
0.1, clip 1.0), no dropout, float32. Its model here is transformers' GPT2LMHeadModel. Ours has as many layers, heads
and features, and is trained by `fit`; its rates and batch are its own.

The split: the first 90% of the file in the data folder to train on, the last 10% to test on. The loss tested is the
mean over all windows of 64 characters of the test part, one after another, for both. A time is the whole process's,
imports, reading and the test at the end included. First the peer runs, and its loss is the mark; ours runs for the
number of steps given and must come out below.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CONTEXT = 64


def text() -> str:
    return (Path(os.environ["MODELWRIGHT_DATA"]) / "tinyshakespeare/train.txt").read_text()


def split() -> tuple[Any, Any, int]:
    """Training and test characters as ids, and how many different ones there are."""
    import torch

    found = text()
    characters = {c: i for i, c in enumerate(sorted(set(found)))}
    ids = torch.tensor([characters[c] for c in found])
    at = int(0.9 * len(ids))
    return ids[:at], ids[at:], len(characters)


def windows(ids: Any) -> Any:
    """Every window of 64 characters and the one after: (windows, 65)."""
    return ids.unfold(0, CONTEXT + 1, CONTEXT)


def peer() -> float:
    import torch
    import torch.nn.functional as F
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1337)
    train, held, vocab = split()
    shape = {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": CONTEXT}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=vocab, **shape, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, use_cache=False)
    )
    matrices = [p for p in model.parameters() if p.dim() > 1]
    groups = [{"params": matrices, "weight_decay": 0.1}]
    groups += [{"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    for step in range(2000):
        rate = (step + 1) / 101 if step < 100 else 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 100) / 1900))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rate
        at = torch.randint(len(train) - CONTEXT - 1, (12, 1))
        rows = train[at + torch.arange(CONTEXT + 1)]
        logits = model(rows[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        losses = [
            F.cross_entropy(model(rows[:, :-1]).logits.transpose(1, 2), rows[:, 1:], reduction="none")
            for rows in windows(held).split(256)
        ]
    return float(torch.cat(losses).mean())


def ours(steps: int, rows: int, rate: float, matrix_rate: float) -> float:
    from modelwright.train.allocator import keep_large_blocks

    keep_large_blocks()
    import torch

    from modelwright.data.pack import Batch
    from modelwright.losses.language import language_model
    from modelwright.model.transformer import Config, Rope, Transformer, initialise
    from modelwright.train import optim
    from modelwright.train.loop import fit

    generator = torch.Generator().manual_seed(1337)
    train, held, vocab = split()
    cfg = Config(
        vocab=vocab, width=128, layers=4, heads=4, kv_heads=4, head=32, ffn=512, context=CONTEXT, rope=Rope(),
        gated=False, act="relu",
    )  # fmt: skip
    model = initialise(Transformer(cfg), generator)
    optimizer = optim.make(model, "muon", rate, matrix_lr=matrix_rate, adjust="original")
    weight = torch.ones(rows, CONTEXT)
    pos = torch.arange(CONTEXT)[None]

    def batches() -> Any:
        while True:
            at = torch.randint(len(train) - CONTEXT - 1, (rows, 1), generator=generator)
            found = train[at + torch.arange(CONTEXT + 1)]
            yield Batch(found[:, :-1], found[:, 1:], weight, pos, None)  # type: ignore[arg-type]

    schedule = optim.linear(steps, warmup=steps // 20, floor=0.0)
    fit(model, batches(), language_model, optimizer, steps=steps, schedule=schedule, precision="bf16")
    model.eval()
    with torch.no_grad():
        logps = torch.cat([model(rows[:, :-1], rows[:, 1:]) for rows in windows(held).split(256)])
    return -float(logps.mean())


def timed(args: argparse.Namespace, who: str) -> tuple[float, float]:
    """(seconds of the whole process, the loss it came to)."""
    more = ["--steps", args.steps, "--rows", args.rows, "--rate", args.rate, "--matrix-rate", args.matrix_rate]
    start = time.perf_counter()
    command = [sys.executable, __file__, "--one", who, *map(str, more)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return time.perf_counter() - start, json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.006)
    parser.add_argument("--matrix-rate", type=float, default=0.06)
    parser.add_argument("--one", choices=["ours", "peer"])
    args = parser.parse_args()
    if "MODELWRIGHT_DATA" not in os.environ:
        sys.exit("MODELWRIGHT_DATA must name the folder that holds tinyshakespeare/train.txt")
    if args.one:
        print(peer() if args.one == "peer" else ours(args.steps, args.rows, args.rate, args.matrix_rate))
        return
    seconds: dict[str, list[float]] = {"peer": [], "ours": []}
    losses: dict[str, list[float]] = {"peer": [], "ours": []}
    for _ in range(args.rounds):
        for who in seconds:
            took, loss = timed(args, who)
            seconds[who].append(took)
            losses[who].append(loss)
            print(f"{who}: loss {loss:.4f} in {took:.1f} s", flush=True)
    mark = statistics.median(losses["peer"])
    share = statistics.median(seconds["ours"]) / statistics.median(seconds["peer"])
    came = statistics.median(losses["ours"])
    print(f"the mark is {mark:.4f}; ours came to {came:.4f} in {share:.2f} of the peer's time")


if __name__ == "__main__":
    main()
