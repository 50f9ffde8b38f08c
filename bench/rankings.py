"""DPO on rankings: each answer read once, against once for each pair that it is in; alternating, medians.

    python bench/rankings.py [--answers 4 --answers 9] [--rounds 3] [--steps 4]

A decoder of 1M random parameters (width 128, 3 layers, V 4096), all of it learned, float32, the reference a frozen
copy; a step is 4 rankings, a row each, of answers of 40 tokens to prompts of 16. The first step of each round does not
count.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations, pairwise

import torch
from align import text, tokenizers_of

from modelwright.data.pack import Row
from modelwright.data.pairs import answers_of, compared, conversation_task
from modelwright.data.preferences import Preference
from modelwright.data.supervised import Examples, join
from modelwright.data.tokenizer import Tokenizer
from modelwright.losses.preference import direct_preference
from modelwright.model.transformer import Config, Rope, Transformer, initialise
from modelwright.train.allocator import keep_large_blocks
from modelwright.train.loop import fit
from modelwright.train.optim import make

RANKINGS, PROMPT, ANSWER, VOCAB = 4, 16, 40, 4096
SHAPE = Config(
    vocab=VOCAB, width=128, layers=3, heads=4, kv_heads=4, head=32, ffn=344, context=512, rope=Rope(), tied=True
)


def ranking(at: int, answers: int) -> list[Preference]:
    """All pairs of a ranking without ties."""
    asked = ({"role": "user", "content": text(at, PROMPT)},)
    said = [text(answers * at + n + 1, ANSWER - 1) for n in range(answers)]
    return [Preference(str(at), asked, one, other, {}, str(at)) for one, other in combinations(said, 2)]


def rows_of(answers: int, once: bool) -> list[Row]:
    words = Tokenizer(tokenizers_of(), {"pad": "<pad>", "eos": "<end>", "unk": "<unk>", "bos": "<bos>"})
    task = conversation_task()
    write = answers_of(task, words, "decoder", SHAPE.context, ())

    def read(pairs: list[Preference]) -> list[Row]:
        return compared(pairs, task, write, (SHAPE.context, 0)).rows

    rankings = [ranking(at, answers) for at in range(RANKINGS)]
    if once:
        return [row for pairs in rankings for row in read(pairs)]
    apart = [[replace(pair, group=str(at)) for at, pair in enumerate(pairs)] for pairs in rankings]
    return [join(read(pairs)) for pairs in apart]


def seconds(rows: list[Row], steps: int) -> float:
    """Of a step."""
    model = initialise(Transformer(SHAPE), torch.Generator().manual_seed(0)).train()
    frozen, marks = copy.deepcopy(model).eval().requires_grad_(False), list[float]()
    loader = Examples(rows, length=max(len(row.tokens) for row in rows), batch=RANKINGS, seed=0)
    fit(
        model, loader, direct_preference(lambda: nullcontext(frozen), 0.1), make(model, lr=1e-6, decay=0.0),
        steps=steps + 1, after_step=lambda step, said: marks.append(time.perf_counter()),
    )  # fmt: skip
    return statistics.median(after - before for before, after in pairwise(marks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    o = parser.parse_args()
    keep_large_blocks()
    print(f"{sum(p.numel() for p in Transformer(SHAPE).parameters()):,} parameters")
    for answers in o.answers or [4, 9]:
        rows = {once: rows_of(answers, once) for once in (True, False)}
        found: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(o.rounds):
            for once, times in found.items():
                times.append(seconds(rows[once], o.steps))
        once, each = (statistics.median(times) for times in found.values())
        print(f"{answers} answers: {once:.3f} s a step read once, {each:.3f} s pair by pair: {each / once:.1f} times")


if __name__ == "__main__":
    main()
