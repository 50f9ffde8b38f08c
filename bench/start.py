"""Cold start, ours against transformers: whole processes, from nothing to 16 tokens, alternating, medians.

    python bench/start.py [--rounds 5] [--shape gpt2|tiny] [--precision fp32|bf16]

A model of GPT-2's shape with random weights is saved once in a temporary directory, with GPT-2's own vocabulary where
MODELWRIGHT_DATA names the shared data, else with a small one. A first run of each, not counted, warms the disk's cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from modelwright.data import tokenizer as tokenizers
from modelwright.data.tokenizer import Tokenizer
from modelwright.hub.open import LanguageModel, save
from modelwright.model.transformer import Config, Transformer, initialise

GPT2 = Config(
    vocab=50257, width=768, layers=12, heads=12, kv_heads=12, head=64, ffn=3072, context=1024, norm="layer",
    act="gelu_tanh", gated=False, attn_bias=True, ffn_bias=True, learned=True,
)  # fmt: skip
PEER = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
path, dtype = sys.argv[1], {"fp32": torch.float32, "bf16": torch.bfloat16}[sys.argv[2]]
tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
ids = tokenizer("Once upon a time", return_tensors="pt")
out = model.generate(**ids, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
print(tokenizer.decode(out[0]))
"""


def make(directory: Path, shape: str) -> None:
    data = os.environ.get("MODELWRIGHT_DATA")
    if data and shape == "gpt2":
        words = Tokenizer.load(Path(data) / "tokenizers" / "gpt2")
    else:
        words = tokenizers.train(["Once upon a time there was a small vocabulary."] * 9, "bpe", 300)
    cfg = (
        GPT2 if shape == "gpt2" else replace(GPT2, vocab=300, width=64, heads=2, kv_heads=2, head=32, ffn=128, layers=2)
    )
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0))
    save(LanguageModel(model, words, {"eos_token_id": cfg.vocab - 1}), directory)


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    took = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", default="gpt2", choices=["gpt2", "tiny"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        model = str(Path(work) / "model")
        make(Path(model), o.shape)
        python = sys.executable
        generate = ["generate", model, "Once upon a time", "--max-new", "16", "--greedy", "--precision", o.precision]
        commands = {
            "import torch": [python, "-c", "import torch"],
            "import modelwright": [python, "-c", "import modelwright"],
            "modelwright --help": [python, "-m", "modelwright.cli", "--help"],
            "ours, 16 tokens": [python, "-m", "modelwright.cli", *generate],
            "transformers, 16 tokens": [python, "-c", PEER, model, o.precision],
        }
        for command in commands.values():
            seconds(command)
        runs = [{name: seconds(command) for name, command in commands.items()} for _ in range(o.rounds)]
    median = {name: statistics.median(run[name] for run in runs) for name in commands}
    for name, took in median.items():
        print(f"{name:<24} {took:6.2f} s")
    mine, torch_alone = median["ours, 16 tokens"], median["import torch"]
    ratio = median["transformers, 16 tokens"] / mine
    print(f"ours is torch's import + {mine - torch_alone:.2f} s; transformers takes {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
