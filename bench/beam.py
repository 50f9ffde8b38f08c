"""Beam search, ours against transformers', on the same weights in one process, in turn: seconds and their ratio.

    OMP_NUM_THREADS=1 taskset -c 1 python bench/beam.py [--sources 32] [--beams 4] [--new 64] [--source 64] [--rounds 3]

A T5 v1.1 of random weights, width 256, four layers a tower, a vocabulary of 32,000; sources of uneven lengths, of which
--source is the longest. How many texts come out alike is told. --ends: how many tokens end a text; with one, all are
as long as may be. Ours is timed with the packing of the weights.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from typing import Any

import torch
import transformers

from modelwright.infer.beam import beam_search
from modelwright.infer.packed import prepare
from modelwright.infer.sample import Sampling
from modelwright.infer.text import Encoded
from modelwright.model import checkpoint

VOCAB = 32_000


def peer(seed: int) -> Any:
    torch.manual_seed(seed)
    shape = {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_heads": 4}
    cfg = transformers.T5Config(
        vocab_size=VOCAB, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, **shape
    )
    model = transformers.T5ForConditionalGeneration(cfg).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, 256) * 256**-0.5 * 1.5)
    return model


def theirs(model: Any, sources: list[list[int]], ends: list[int], o: argparse.Namespace) -> list[list[int]]:
    longest = max(map(len, sources))
    ids = torch.tensor([source + [0] * (longest - len(source)) for source in sources])
    mask = torch.tensor([[1] * len(source) + [0] * (longest - len(source)) for source in sources])
    out = model.generate(
        ids, attention_mask=mask, num_beams=o.beams, length_penalty=o.penalty, max_new_tokens=o.new, do_sample=False,
        eos_token_id=ends, pad_token_id=-1,
    )  # fmt: skip
    return [[token for token in row[1:].tolist() if token != -1] for row in out]


def ours(model: Any, sources: list[list[int]], ends: list[int], o: argparse.Namespace) -> list[list[int]]:
    sampling = Sampling(o.new, 0.0, beams=o.beams, length_penalty=o.penalty)
    found = dict(beam_search(prepare(model), Encoded([[0]] * len(sources), sources), sampling, ends))
    return [list(found[at][0].tokens) for at in range(len(sources))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("sources", 32), ("beams", 4), ("new", 64), ("source", 64), ("ends", 1), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--penalty", type=float, default=0.6)
    o = parser.parse_args()
    model, draw = peer(0), random.Random(0)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        same = checkpoint.load(directory).eval()
    lengths = [draw.randint(o.source // 2, o.source) for _ in range(o.sources)]
    sources = [[draw.randrange(3, VOCAB) for _ in range(length)] for length in lengths]
    ends, sides = list(range(3, 3 + o.ends)), {"ours": (ours, same), "transformers": (theirs, model)}
    took: dict[str, list[float]] = {name: [] for name in sides}
    said: dict[str, list[list[int]]] = {}
    for _ in range(o.rounds + 1):
        for name, (side, weights) in sides.items():
            start = time.perf_counter()
            said[name] = side(weights, sources, ends, o)
            took[name].append(time.perf_counter() - start)
    alike = sum(a == b for a, b in zip(said["ours"], said["transformers"], strict=True))
    seconds = {name: statistics.median(some[1:]) for name, some in took.items()}  # the first round warms up
    steps = sorted(map(len, said["ours"]))
    print(
        f"{alike} of {len(sources)} texts alike, of {steps[0]} to {steps[-1]} tokens, median {steps[len(steps) // 2]}"
    )
    print(", ".join(f"{name} {some:.2f} s" for name, some in seconds.items()))
    print(f"transformers / ours: {seconds['transformers'] / seconds['ours']:.2f}")


if __name__ == "__main__":
    main()
