"""The loss by how much of a text was read: against a plain loop, a token at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modelwright.evaluate.positions import by_position
from modelwright.evaluate.scorer import ModelScorer
from modelwright.model.recurrent_families import lstm
from modelwright.model.transformer import Config
from test_scorer import BERT, GPT2, LLAMA, T5, build, said


@torch.no_grad()
@pytest.mark.parametrize("cfg", [LLAMA, GPT2, lstm(420, 16, 2, 48)], ids=["llama", "gpt2", "lstm"])
def test_each_token_counts_at_the_place_that_predicts_it(cfg: Config) -> None:
    """Rows of 48 tokens, of which none goes on from another: an LSTM, which could, begins anew too."""
    lm = build(cfg)
    texts = [*said(4, 20), " ".join(said(20, 12)), ""]
    sums: dict[tuple[int, int], list[float]] = {}
    for number, text in enumerate(texts):
        ids = [lm.tokenizer.eos or 0, *lm.tokenizer.encode(text)]
        for at in range(len(ids) - 1) if text else ():
            start = at // 48 * 48
            logps = lm.model(torch.tensor([ids[start : at + 1]]))[0, -1].log_softmax(-1)
            place = at - start
            bucket = next(k for k in range(6) if place < 2 ** (k + 1))
            one = sums.setdefault((bucket, number), [0.0, 0])
            one[0] -= logps[ids[at + 1]].item()
            one[1] += 1
    found = by_position(ModelScorer(lm), texts)
    assert [(one.first, one.last) for one in found] == [(0, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63)]
    for k, one in enumerate(found):
        wanted = [sums[k, number] for number in range(len(texts)) if (k, number) in sums]
        np.testing.assert_allclose(one.stats, np.array(wanted), rtol=1e-4)


@pytest.mark.parametrize("cfg", [BERT, T5], ids=["bert", "t5"])
def test_a_decoder_alone_has_such_places(cfg: Config) -> None:
    with pytest.raises(ValueError, match="only a decoder predicts each token from those before it"):
        by_position(ModelScorer(build(cfg)), ["a"])
