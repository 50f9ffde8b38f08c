"""Whether a second model's loss is below a first one's on the same documents: python paired.py FIRST SECOND TEXT.jsonl

Told are the difference in nats a token, approximate randomisation's p (docs/statistics.md), and on how many of the
documents the second is better, with Clopper and Pearson's interval.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from modelwright.adapt.open import open_model
from modelwright.evaluate.forgetting import grown
from modelwright.evaluate.metrics import METRICS
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.statistics import interval


def main() -> None:
    texts = [json.loads(line)["text"] for line in Path(sys.argv[3]).read_text("utf-8").splitlines()]
    first, second = (ModelScorer(open_model(name)).rolling(texts) for name in sys.argv[1:3])
    said = grown(first, second)
    better = np.array([[other.logp > one.logp, 1] for one, other in zip(first, second, strict=True)], float)  # (n, 2)
    share = interval(better, METRICS["accuracy"])
    print(
        f"{said.before.value:.3f} and {said.after.value:.3f} nats a token: {said.difference.value:+.3f}, p {said.p:.4f}"
    )
    print(f"better on {better[:, 0].sum():.0f} of {len(texts)} documents: "
          f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f})")  # fmt: skip


main()
