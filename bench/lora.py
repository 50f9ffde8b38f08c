"""A LoRA step, ours against peft + transformers: tokens/s on the same shape, alternating, medians.

    python bench/lora.py [--rounds 3] [--steps 4] [--context 256] [--batch 8] [--targets q v] [--quick]

Rank 8 beside the frozen weights of SmolLM-135M's shape, drawn at random; bfloat16 by autocast; AdamW. Each measurement
is a process of its own, since the allocator's settings belong to the process. The peer runs as installed, and again
with glibc told to keep large blocks (`peer+alloc`), which ours does for itself. Beside the rates stand the peak of
memory of each process and the machine's best product. --quick is one step of a toy, to see that all of it runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

from child import measured

SHAPES: dict[str, dict[str, int]] = {
    "smol": {
        "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "max_position_embeddings": 2048,
    },
    "toy": {
        "vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 128, "max_position_embeddings": 2048,
    },
}  # fmt: skip
THEIRS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "gate": "gate_proj", "up": "up_proj",
          "down": "down_proj"}  # fmt: skip
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
RANK, ALPHA, RATE = 8, 16, 1e-4


# -- one measurement, in a process of its own ----------------------------------------------------


def hf_config(shape: str) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**SHAPES[shape], tie_word_embeddings=True)


def peer_step(o: argparse.Namespace) -> Callable[[], None]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(hf_config(o.shape))
    names = [THEIRS[name] for name in o.targets]
    cfg = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names, task_type="CAUSAL_LM")
    model = get_peft_model(base, cfg).train()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=RATE)
    tokens = torch.randint(SHAPES[o.shape]["vocab_size"], (o.batch, o.context))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(o: argparse.Namespace) -> Callable[[], None]:
    from modelwright.train.allocator import keep_large_blocks

    keep_large_blocks()
    import torch

    from modelwright.adapt.lora import LoRA, add_lora
    from modelwright.data.pack import Batch
    from modelwright.losses.language import language_model
    from modelwright.model.transformer import Config, Rope, Transformer, initialise
    from modelwright.train.loop import fit
    from modelwright.train.optim import make

    said = SHAPES[o.shape]
    heads, width = said["num_attention_heads"], said["hidden_size"]
    cfg = Config(
        vocab=said["vocab_size"], width=width, layers=said["num_hidden_layers"], heads=heads,
        kv_heads=said["num_key_value_heads"], head=width // heads, ffn=said["intermediate_size"], context=2048,
        rope=Rope(),
    )  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    model = initialise(Transformer(cfg), draw)
    add_lora(model, LoRA(RANK, ALPHA, targets=tuple(o.targets)), draw).train()
    optimizer = make(model, "adamw", lr=RATE)
    tokens = torch.randint(cfg.vocab, (o.batch, o.context + 1))
    ones = torch.ones(o.batch, o.context)
    pos = torch.arange(o.context).expand(o.batch, -1)
    rows = Batch(tokens[:, :-1], tokens[:, 1:], ones, pos, ones.long())

    def step() -> None:
        fit(model, [rows], language_model, optimizer, steps=1, precision="bf16")

    return step


def child(who: str, o: argparse.Namespace) -> dict[str, float]:
    """tokens/s, the median of the steps after a first that warms up; and the peak of the process, in MiB."""
    step = (our_step if who == "ours" else peer_step)(o)
    step()
    times = []
    for _ in range(o.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rate": o.batch * o.context / statistics.median(times), "memory": memory}


def peak() -> float:
    """The best bf16 matrix product of this machine on a layer of the shape, FLOP/s."""
    import torch

    best = 0.0
    for m, k, n in ((2048, 576, 1536), (2048, 1536, 576)):
        x, w = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16()
        for _ in range(7):
            start = time.perf_counter()
            torch.nn.functional.linear(x, w)
            best = max(best, 2 * m * k * n / (time.perf_counter() - start))
    return best


# -- the comparison ------------------------------------------------------------------------------


def measure(who: str, o: argparse.Namespace) -> dict[str, float]:
    numbers = [f"--{name}={getattr(o, name)}" for name in ("shape", "steps", "context", "batch")]
    said = ["--child", who, *numbers, "--targets", *o.targets]
    return measured(__file__, said, ALLOCATOR if who.endswith("alloc") else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="smol")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--targets", nargs="+", choices=THEIRS, default=["q", "v"])
    parser.add_argument("--quick", action="store_true", help="one step of a toy, to see that it runs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.child:
        return print(json.dumps(child(o.child, o)))
    if o.quick:
        o.shape, o.rounds, o.steps, o.context, o.batch = "toy", 1, 1, 32, 2
    print(f"best bf16 product: {peak() / 1e12:.2f} TFLOP/s")
    found: dict[str, list[dict[str, float]]] = {"peer": [], "peer+alloc": [], "ours": []}
    for _ in range(o.rounds):
        for who, runs in found.items():
            runs.append(measure(who, o))
    rates = {who: statistics.median(run["rate"] for run in runs) for who, runs in found.items()}
    for who, runs in found.items():
        memory = max(run["memory"] for run in runs)
        ratio = rates["ours"] / rates[who]
        print(f"{o.shape:5} {who:11} {rates[who]:8.0f} tokens/s   ours / this = {ratio:.2f}   {memory:6.0f} MiB")
    print(f"best bf16 product: {peak() / 1e12:.2f} TFLOP/s")


if __name__ == "__main__":
    main()
