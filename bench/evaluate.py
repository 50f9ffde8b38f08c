"""Evaluation by writing, ours against transformers in padded batches: examples/s, alternating, medians.

    python bench/evaluate.py MODEL [--examples 128] [--max-new 64] [--batch 32] [--shots 0] [--rounds 3]

MODEL is a decoder that was trained on the embedded desk, so that answers end where they end:

    modelwright pretrain desk --size 3M --context 512 --time 2min --output runs/desk
    python bench/evaluate.py runs/desk/model

Each side reads the same prompts (a dialogue of the test part, and what asks for its summary; `--shots` others before
it, the same for all), writes greedily in float32, and ends with text. The peer runs in batches padded on the left, in
the order of the data, as installed; then with glibc told to keep large blocks, as ours tells it (`alloc`); and with its
rows sorted by length too. Each measurement is a process of its own; opening the model is not counted, packing our
weights is. Last comes how many answers are the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from typing import Any

from child import measured

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def texts(o: argparse.Namespace) -> list[str]:
    from modelwright.data.desk import cases

    shown = [f"{case.text}\n\nSummary: {case.summary}\n\n" for case in cases(0, "train", count=o.shots)]
    asked = ("".join(shown) + f"{case.text}\n\nSummary:" for case in cases(0, "test"))
    return list(itertools.islice((text for text in asked if len(text) <= o.longest), o.examples))


def ours(o: argparse.Namespace) -> tuple[float, list[str], int]:
    from modelwright.train.allocator import keep_large_blocks

    keep_large_blocks()
    from modelwright.data.kind import Decoding
    from modelwright.data.prompt import Prompt
    from modelwright.evaluate.scorer import ModelScorer
    from modelwright.hub.open import load

    lm = load(o.model)
    prompts = [Prompt(tuple(lm.tokenizer.encode(text, special=True)), None, text) for text in texts(o)]
    start = time.perf_counter()
    found = ModelScorer(lm).generate(prompts, Decoding(max_new=o.max_new), seed=0)
    return time.perf_counter() - start, [done.text for done in found], sum(len(done.tokens) for done in found)


def peer(o: argparse.Namespace, in_order: bool) -> tuple[float, list[str], int]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(o.model, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(o.model, padding_side="left")
    words.pad_token = words.pad_token or words.eos_token
    asked, said, tokens = texts(o), [""] * o.examples, 0
    sizes = [len(words(text).input_ids) for text in asked]
    order = sorted(range(o.examples), key=lambda i: 0 if in_order else sizes[i])
    start = time.perf_counter()
    with torch.inference_mode():
        for i in range(0, o.examples, o.batch):
            some = order[i : i + o.batch]
            batch = words([asked[j] for j in some], return_tensors="pt", padding=True)
            out = model.generate(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=o.max_new,
                do_sample=False, pad_token_id=words.pad_token_id,
            )  # fmt: skip
            new = out[:, batch.input_ids.size(1) :]
            tokens += int((new != words.pad_token_id).sum())
            for j, text in zip(some, words.batch_decode(new, skip_special_tokens=True), strict=True):
                said[j] = text
    return time.perf_counter() - start, said, tokens


def child(who: str, o: argparse.Namespace) -> dict[str, Any]:
    seconds, said, tokens = ours(o) if who == "ours" else peer(o, "sorted" not in who)
    return {"rate": o.examples / seconds, "said": [text.strip() for text in said], "tokens": tokens}


def measure(who: str, o: argparse.Namespace) -> dict[str, Any]:
    names = ("examples", "max-new", "batch", "shots", "longest")
    numbers = [f"--{name}={getattr(o, name.replace('-', '_'))}" for name in names]
    return measured(__file__, [o.model, "--child", who, *numbers], ALLOCATOR if "alloc" in who else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a directory")
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--max-new", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--longest", type=int, default=2000, help="characters of a prompt: it is to fit the context")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if not o.model:
        return print("evaluate.py needs a model: a directory of a decoder that was trained on the embedded desk")
    if o.child:
        return print(json.dumps(child(o.child, o)))
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": [], "peer+alloc": [], "peer+alloc+sorted": []}
    for _ in range(o.rounds):
        for who, runs in found.items():
            runs.append(measure(who, o))
    rates = {who: statistics.median(run["rate"] for run in runs) for who, runs in found.items()}
    for who, rate in rates.items():
        length = found[who][0]["tokens"] / o.examples
        print(
            f"{who:<18} {rate:8.2f} examples/s   ours / this = {rates['ours'] / rate:5.2f}   {length:.0f} tokens each"
        )
    alike = sum(a == b for a, b in zip(found["ours"][0]["said"], found["peer"][0]["said"], strict=True))
    print(f"{alike} of {o.examples} answers are the same text")


if __name__ == "__main__":
    main()
