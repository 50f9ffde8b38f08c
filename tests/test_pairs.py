"""Preferences as rows: each answer of a ranking once, and the losses of all its pairs, against reading each by itself.

Letters: B rows, T tokens of a row, P pairs of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelwright.data.examples import Example
from modelwright.data.pack import Row, collate
from modelwright.data.pairs import (
    Compared,
    Write,
    answers_of,
    chance,
    compared,
    conversation_task,
    example_of,
    split,
    verdicts_of,
)
from modelwright.data.preferences import Preference, preferences
from modelwright.data.supervised import Examples, Widths, sizes
from modelwright.data.tokenizer import Tokenizer
from modelwright.losses.preference import bradley_terry, direct_preference, dpo, pairwise_reward
from modelwright.model.heads import Scored
from modelwright.model.transformer import Transformer, initialise
from modelwright.train.loop import fit
from tasks import SHAPES, tokenizer

TASK = conversation_task()
RANKINGS = [
    {"prompt": "the old sea red", "completions": ["cat", "the mat", "old town", "birds"], "ranks": [2, 1, 3, 2]},
    {"prompt": "the old sea red", "completions": ["cat", "the mat", "old town", "birds"], "ranks": [1, 4, 2, 3]},
    {"prompt": "my new hill", "chosen": "a far road", "rejected": "the sea"},
    {"prompt": "a far road blue", "completions": ["red", "green hill", "grey"], "ranks": [3, 2, 1]},
    {"prompt": "the hill", "completions": ["cat", "mat"], "ranks": [2, 1]},
]
PAIRS = preferences([Example(str(at), row) for at, row in enumerate(RANKINGS)])
ROOM = (48, 48)


@pytest.fixture(scope="module", params=["decoder", "encoder", "encoder-decoder"])
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def words(shape: str) -> Tokenizer:
    return tokenizer(shape)


def body(shape: str, words: Tokenizer, seed: int) -> Transformer:
    """Weights large enough that each tells in the loss."""
    cfg = replace(SHAPES[shape][0], vocab=words.vocab, layers=1)
    cfg = replace(cfg, encoder=replace(cfg.encoder, vocab=words.vocab, layers=1)) if cfg.encoder else cfg
    model, generator = initialise(Transformer(cfg), torch.Generator().manual_seed(seed)), torch.Generator()
    generator.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model.eval()


def answering(shape: str, words: Tokenizer, start: tuple[int, ...] = ()) -> Write:
    return answers_of(TASK, words, shape, 48, start)  # type: ignore[arg-type]


def judging(shape: str, words: Tokenizer) -> Write:
    return verdicts_of(TASK, words, shape, 48, ())  # type: ignore[arg-type]


# -- rows ----------------------------------------------------------------------------------------------------------


def texts_of(row: Row, words: Tokenizer) -> list[str]:
    """What stands in each segment."""
    return [words.decode(row.tokens[row.segment == at].tolist()) for at in range(1, int(row.segment.max()) + 1)]


def test_each_answer_of_a_ranking_is_a_segment_and_its_pairs_are_numbers() -> None:
    """By hand: 'the mat' before 'cat' and 'birds', a tie, before 'old town'; in the order in which pairs name them."""
    words = tokenizer("decoder")
    first = compared(PAIRS, TASK, answering("decoder", words), ROOM).rows[0]
    assert texts_of(first, words) == [f"the old sea red {said}" for said in ("the mat", "cat", "old town", "birds")]
    assert first.pairs is not None
    assert first.pairs[0].tolist() == [[1, 2], [2, 3], [1, 3], [1, 4], [4, 3]]
    assert first.pairs[1].tolist() == pytest.approx([0.2] * 5)


def test_a_ranking_is_one_row_and_labellers_have_their_own(shape: str, words: Tokenizer) -> None:
    found = compared(PAIRS, TASK, judging(shape, words), ROOM)
    assert found.names == ["0", "1", "2", "3", "4"]
    assert [int(row.segment.max()) for row in found.rows] == [4, 4, 2, 3, 2]
    assert [len(row.pairs[1]) for row in found.rows if row.pairs] == [5, 6, 1, 3, 1]
    assert (found.pairs, found.left_out) == (16, [])
    assert found.prompts[0] == found.prompts[1] != found.prompts[2]
    if shape == "encoder-decoder":
        assert all(row.source and set(row.source[2]) == set(row.segment) for row in found.rows)


def test_two_prompts_under_one_name_are_two_rankings() -> None:
    pairs = [replace(pair, group="x") for pair in (PAIRS[-1], replace(PAIRS[-1], prompt=PAIRS[0].prompt))]
    words = tokenizer("decoder")
    rows = compared(pairs, TASK, answering("decoder", words), ROOM).rows
    assert [texts_of(row, words)[0] for row in rows] == ["the hill mat", "the old sea red mat"]


def test_what_is_left_of_a_ranking_counts_as_much_as_a_whole_one() -> None:
    """One of four answers is too long: three pairs are left out, and the other three count a third each."""
    said = {"prompt": "the hill", "completions": ["cat", "sea " * 60, "mat", "town"], "ranks": [1, 2, 3, 4]}
    whole = {"prompt": "the hill", "chosen": "cat", "rejected": "sea " * 60}
    pairs = preferences([Example("a", said), Example("b", whole)])
    words = tokenizer("decoder")
    found = compared(pairs, TASK, answering("decoder", words), ROOM)
    (row,) = found.rows
    assert row.pairs is not None
    assert row.pairs[0].tolist() == [[1, 2], [1, 3], [2, 3]]
    assert row.pairs[1].tolist() == pytest.approx([1 / 3] * 3)
    assert texts_of(row, words) == ["the hill cat", "the hill mat", "the hill town"]
    assert (found.names, found.pairs, found.left_out) == (["a"], 3, ["a", "a", "a", "b"])


def test_a_prompt_that_would_be_cut_is_left_out() -> None:
    (long,) = preferences([Example("a", {"prompt": "sea " * 60, "chosen": "cat", "rejected": "mat"})])
    found = compared([long], TASK, answering("decoder", tokenizer("decoder")), (200, 0))
    assert found == Compared([], [], [], 0, ["a"])


def test_where_an_answer_is_learned_and_where_it_is_judged(shape: str, words: Tokenizer) -> None:
    """A policy learns the answer and its end; a reward model judges once all is read, an encoder at its first token."""
    pair = PAIRS[-1]
    judged = judging(shape, words)(example_of(pair, TASK), "cat")
    at = {"decoder": len(judged.tokens) - 1, "encoder": 0, "encoder-decoder": len(judged.tokens) - 1}[shape]
    assert judged.weight.nonzero()[0].tolist() == [at]
    if shape == "encoder":
        assert words.decode(judged.tokens.tolist(), special=True) == "[CLS] the hill [SEP] cat [SEP]"
        return
    row = answering(shape, words)(example_of(pair, TASK), "cat")
    learned = row.targets[row.weight > 0].tolist()
    assert words.decode(learned[:-1]).strip() == "cat"
    assert learned[-1] == words.eos
    assert [*row.tokens, words.eos] == judged.tokens.tolist()


def test_parts_fall_by_words_and_in_their_shares() -> None:
    assert chance(3, "a") == chance(3, "a") != chance(4, "a")
    many = [Preference(str(at), ({"role": "user", "content": f"{at // 2}"},), "a", "b", {}, "x") for at in range(4000)]
    parts = split(many, 1)
    assert {part: len(some) / 4000 for part, some in parts.items()} == pytest.approx(
        {"train": 0.8, "select": 0.1, "test": 0.1}, abs=0.02
    )
    asked = {part: {pair.prompt[0]["content"] for pair in some} for part, some in parts.items()}
    assert sum(map(len, asked.values())) == 2000, "both pairs of a prompt in one part"


# -- losses: each pair by itself is the slow, plain version ----------------------------------------------------------


def alone(row: Row) -> Any:
    return collate([row], Widths(*sizes(row), 0))


def log_p(model: nn.Module, row: Row) -> Tensor:
    batch = alone(row)
    return model(batch.tokens, batch.targets.masked_fill(batch.weight == 0, -1), source=batch.source).sum()


def reward(model: nn.Module, row: Row) -> Tensor:
    batch = alone(row)
    return model(batch.tokens, source=batch.source)[batch.weight > 0].squeeze()


def plainly(write: Write, each: Callable[[Row, Row], Tensor]) -> Tensor:
    """The mean over rankings of the mean over their pairs, both answers of each read for it alone."""
    total = torch.zeros(())
    for group in range(len(RANKINGS)):
        pairs = [pair for pair in PAIRS if pair.group == str(group)]
        for pair in pairs:
            rows = [write(example_of(pair, TASK), answer) for answer in (pair.chosen, pair.rejected)]
            total = total + each(*rows) / len(pairs)
    return total / len(RANKINGS)


def in_steps(model: nn.Module, write: Write, loss: Any) -> dict[str, Any]:
    """One step of rate 1 over all rankings, two rows at a time -> what it tells; the gradient is what has changed."""
    rows = compared(PAIRS, TASK, write, ROOM).rows
    length, source = (3 * max(each) // 2 for each in zip(*map(sizes, rows), strict=True))
    loader = Examples(rows, length=length, source=source, batch=2, seed=0, epochs=1)
    assert 2 < loader.rows < len(rows), "some rankings share a row, and there are several batches"
    told, sgd = dict[str, Any](), torch.optim.SGD(model.parameters(), lr=1.0)
    micro = -(-loader.rows // 2)
    fit(model, loader, loss, sgd, steps=1, accumulate=micro, clip=1e9, after_step=lambda _, said: told.update(said))
    return told


def same_step(model: nn.Module, before: dict[str, Tensor]) -> None:
    """before: of the weights. Their change is the gradient that the plain version left."""
    for name, p in model.named_parameters():
        gradient = torch.zeros_like(p) if before[name].grad is None else before[name].grad
        torch.testing.assert_close(before[name].detach() - p.detach(), gradient, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_dpo_of_rankings_is_that_of_each_pair_by_itself(kind: Any, shape: str, words: Tokenizer) -> None:
    if shape == "encoder":
        pytest.skip("an encoder writes nothing")
    write, beta = answering(shape, words), 0.3
    model, plain, reference = body(shape, words, 0), body(shape, words, 0), body(shape, words, 1)

    def each(*rows: Row) -> Tensor:
        by = [row.weight.sum() if kind == "ipo" else 1 for row in rows]
        logps = [log_p(one, row) / n for one in (plain, reference) for row, n in zip(rows, by, strict=True)]
        return dpo(*logps, beta, kind)

    wanted = plainly(write, each)
    wanted.backward()
    loss = direct_preference(lambda: nullcontext(reference), beta, kind)
    told = in_steps(model, write, loss)
    assert told["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert told["weight/loss"] == pytest.approx(len(RANKINGS))
    same_step(model, dict(plain.named_parameters()))


def test_a_reward_of_rankings_is_that_of_each_pair_by_itself(shape: str, words: Tokenizer) -> None:
    write = judging(shape, words)
    model, plain = (Scored(body(shape, words, 0), torch.Generator().manual_seed(2)) for _ in range(2))
    wanted = plainly(write, lambda *rows: bradley_terry(*(reward(plain, row) for row in rows)))
    wanted.backward()
    told = in_steps(model, write, pairwise_reward)
    assert told["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    same_step(model, dict(plain.named_parameters()))


def test_pairs_come_again_to_the_bit_from_any_place() -> None:
    rows = compared(PAIRS, TASK, answering("decoder", tokenizer("decoder")), ROOM).rows

    def loader() -> Examples:
        return Examples(rows, length=48, batch=2, seed=5)

    def said(batch: Any) -> tuple[Any, ...]:
        return batch.tokens.tolist(), batch.pairs.segments.tolist(), batch.pairs.weight.tolist()

    whole = [said(batch) for batch in islice(loader(), 9)]
    first = loader()
    before = [said(batch) for batch in islice(first, 4)]
    second = loader()
    second.load_state_dict(first.state_dict())
    assert before + [said(batch) for batch in islice(second, 5)] == whole
