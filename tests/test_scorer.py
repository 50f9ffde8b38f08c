"""The five verbs against plain loops, and against another library.

Letters: B batch, T length, V vocabulary, L labels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modelwright.data.kind import Decoding
from modelwright.data.prompt import Prompt
from modelwright.data.span import Window
from modelwright.data.tokenizer import Tokenizer
from modelwright.data.tokenizer import train as learn
from modelwright.evaluate.reading import batches, strips, text_rows
from modelwright.evaluate.scorer import ModelScorer
from modelwright.model import checkpoint
from modelwright.model.config import SPAN
from modelwright.model.heads import relabel
from modelwright.model.transformer import Config, Labels, Relative, Rope, Transformer, initialise

TEXT = "the cat sat on a mat and saw red green blue birds far away in the old town by the sea"
WORDS = TEXT.split()
LLAMA = Config(
    vocab=420, width=32, layers=2, heads=4, kv_heads=2, head=8, ffn=64, context=48, rope=Rope(), tied=False
)  # fmt: skip
GPT2 = replace(LLAMA, kv_heads=4, norm="layer", act="gelu_tanh", gated=False, attn_bias=True, ffn_bias=True,
               learned=True, rope=None, tied=True)  # fmt: skip
TOWER = replace(LLAMA, kv_heads=4, rope=None, relative=Relative(8, 20), attn_scale=1.0, eps=1e-6, act="relu",
                gated=False, tied=True)  # fmt: skip
T5 = replace(TOWER, encoder=replace(TOWER, causal=False))
BERT = replace(GPT2, causal=False, types=2, head_transform=True, head_bias=True, embed_norm=True, pre_norm=False,
               final_norm=False, act="gelu", eps=1e-12)  # fmt: skip
SHAPES = {"llama": LLAMA, "gpt2": GPT2, "t5": T5}
SPEAKERS = pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)


@dataclass
class Model:
    model: Transformer
    tokenizer: Tokenizer
    generation: dict[str, Any] = field(default_factory=dict)


def said(count: int, words: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(draw.randint(1, words))) for _ in range(count)]


TOKENIZERS = {
    "causal": learn(said(200, 12), "bpe", 300),
    "masked": learn(said(200, 12), "wordpiece", 300, objective="masked"),
    "span": learn(said(200, 12), "unigram", 420, objective="span"),
}


def build(cfg: Config, seed: int = 0) -> Model:
    """A random model whose choices are far from even, so that a fault in them shows."""
    tokenizer = TOKENIZERS["span" if cfg.encoder else "causal" if cfg.causal else "masked"]
    model = initialise(Transformer(replace(cfg, vocab=420)), torch.Generator().manual_seed(seed)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(3.0 if "norm" not in name else 1.0)
    return Model(model, tokenizer)


def prompts_of(lm: Model, texts: list[str]) -> list[Prompt]:
    if lm.model.encoder is not None:
        return [Prompt((lm.tokenizer.pad or 0,), tuple(lm.tokenizer.encode(t, special=True)), t) for t in texts]
    return [Prompt(tuple(lm.tokenizer.encode(t, special=not lm.model.cfg.causal)), None, t) for t in texts]


@torch.no_grad()
def plain_logits(lm: Model, prompt: Prompt, more: tuple[int, ...] = ()) -> Tensor:
    """(T, V) of prompt and answer, alone and without a cache."""
    memory = None if prompt.source is None else lm.model.encode(torch.tensor([prompt.source]))
    return lm.model(torch.tensor([[*prompt.tokens, *more]]), memory=memory)[0].float()


# -- loglikelihood ------------------------------------------------------------------------------------------


@SPEAKERS
@pytest.mark.parametrize("budget", [8192, 40])
def test_loglikelihood_is_the_plain_loops(cfg: Config, budget: int) -> None:
    lm = build(cfg)
    draw = random.Random(1)
    instruction = "the old cat sat by the sea and saw birds in the town"
    texts = [f"{instruction} {text}" for text in said(6, 8)]
    asked = [(p, text) for p in prompts_of(lm, texts) for text in [*draw.sample(WORDS, 3), " ".join(WORDS[:4])]]
    prompts = [p for p, _ in asked]
    answers = [tuple(lm.tokenizer.encode(" " + text)) for _, text in asked]
    draw.shuffle(order := list(range(len(asked))))
    prompts, answers = [prompts[i] for i in order], [answers[i] for i in order]
    told: list[int] = []
    found = ModelScorer(lm, budget=budget).loglikelihood(prompts, answers, told=told.append)
    assert sum(told) == len(found) == 24
    for prompt, answer, got in zip(prompts, answers, found, strict=True):
        logps = plain_logits(lm, prompt, answer)[len(prompt.tokens) - 1 : -1].log_softmax(-1)
        want = sum(float(logps[i, token]) for i, token in enumerate(answer))
        assert got.logp == pytest.approx(want, abs=2e-5, rel=1e-5)
        assert got.tokens == len(answer)
        assert got.greedy == (logps.argmax(-1).tolist() == list(answer))


def test_loglikelihood_against_transformers(tmp_path: Path) -> None:
    lm = build(LLAMA)
    checkpoint.save(lm.model, tmp_path / "m")
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "m").eval()
    prompts = prompts_of(lm, said(5, 10))
    answers = [tuple(lm.tokenizer.encode(" " + text)) for text in said(5, 3, seed=9)]
    for got, prompt, answer in zip(ModelScorer(lm).loglikelihood(prompts, answers), prompts, answers, strict=True):
        with torch.no_grad():
            logps = theirs(torch.tensor([[*prompt.tokens, *answer]])).logits[0].log_softmax(-1)
        want = sum(float(logps[len(prompt.tokens) - 1 + i, token]) for i, token in enumerate(answer))
        assert got.logp == pytest.approx(want, abs=2e-5, rel=1e-5)


def test_a_greedy_answer_is_told() -> None:
    lm = build(LLAMA)
    (prompt,) = prompts_of(lm, ["the cat"])
    token = int(plain_logits(lm, prompt)[-1].argmax())
    second = int(plain_logits(lm, prompt, (token,))[-1].argmax())
    right, wrong = ModelScorer(lm).loglikelihood([prompt, prompt], [(token, second), (token, (second + 1) % 420)])
    assert (right.greedy, wrong.greedy) == (True, False)
    assert right.logp > wrong.logp


def test_an_answer_to_the_last_place_of_the_context() -> None:
    lm = build(GPT2)
    long, short = (Prompt(tuple([7] * n), None, "") for n in (44, 3))
    found = ModelScorer(lm).loglikelihood([long, short], [(1, 2, 3, 4, 5), (1,)])
    want = plain_logits(lm, long, (1, 2, 3, 4))[43:].log_softmax(-1)
    assert found[0].logp == pytest.approx(sum(float(want[i, t]) for i, t in enumerate((1, 2, 3, 4, 5))), rel=1e-5)
    with pytest.raises(ValueError, match="prompt and answer are 49 tokens, and the model's context is 48"):
        ModelScorer(lm).loglikelihood([long], [(1, 2, 3, 4, 5, 6)])
    with pytest.raises(ValueError, match="an answer without a token"):
        ModelScorer(lm).loglikelihood([short], [()])


def test_bfloat16_is_near() -> None:
    lm = build(LLAMA)
    prompts, answers = prompts_of(lm, said(4, 8)), [(5,), (6, 7), (8,), (9, 10, 11)]
    exact = ModelScorer(lm).loglikelihood(prompts, answers)
    near = ModelScorer(lm, precision="bf16").loglikelihood(prompts, answers)
    assert [a.logp for a in near] == pytest.approx([a.logp for a in exact], rel=0.1)
    assert near != exact
    assert lm.model.embed.tokens.weight.dtype == torch.float32


# -- generate -------------------------------------------------------------------------------------------------


@SPEAKERS
def test_greedy_text_is_the_plain_loops(cfg: Config) -> None:
    lm = build(cfg)
    prompts = prompts_of(lm, [f"{' '.join(WORDS[:9])} {text}" for text in said(40, 6)])
    found = ModelScorer(lm).generate(prompts, Decoding(max_new=10), seed=0)
    for prompt, got in list(zip(prompts, found, strict=True))[::7]:
        more: tuple[int, ...] = ()
        while len(more) < 10 and (not more or more[-1] != lm.tokenizer.eos):
            more = (*more, int(plain_logits(lm, prompt, more)[-1].argmax()))
        assert got.tokens == more
        assert got.finish == ("stop" if more[-1] == lm.tokenizer.eos else "length")


def test_greedy_text_against_transformers(tmp_path: Path) -> None:
    lm = build(LLAMA)
    checkpoint.save(lm.model, tmp_path / "m", extra={"eos_token_id": lm.tokenizer.eos})
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "m").eval()
    prompts = prompts_of(lm, said(5, 10))
    found = ModelScorer(lm).generate(prompts, Decoding(max_new=12), seed=0)
    for prompt, got in zip(prompts, found, strict=True):
        x = torch.tensor([prompt.tokens])
        want = theirs.generate(x, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, x.size(1) :].tolist()
        assert list(got.tokens) == want
        assert got.text == lm.tokenizer.decode([*prompt.tokens, *want])[len(lm.tokenizer.decode(prompt.tokens)) :]


def test_writing_ends_at_stop_strings_and_at_ends() -> None:
    lm = build(LLAMA)
    prompts = prompts_of(lm, said(8, 10))
    scorer = ModelScorer(lm)
    free = scorer.generate(prompts, Decoding(max_new=20), seed=0)
    text = free[0].text
    stop = text[len(text) // 2 :][:2]
    cut = scorer.generate(prompts, Decoding(max_new=20, stop=(stop,)), seed=0)
    for whole, short in zip(free, cut, strict=True):
        assert short.text == whole.text.split(stop)[0]
        assert short.finish == ("stop" if stop in whole.text else whole.finish)
    end = free[1].tokens[4]
    ended = scorer.generate(prompts, Decoding(max_new=20), seed=0, ends=(end,))
    for whole, short in zip(free, ended, strict=True):
        at = whole.tokens.index(end) + 1 if end in whole.tokens else len(whole.tokens)
        assert short.tokens == whole.tokens[:at]


def test_draws_do_not_depend_on_the_neighbours() -> None:
    lm = build(LLAMA)
    prompts, how = prompts_of(lm, said(9, 10)), Decoding(max_new=8, temperature=1.0, top_p=0.9)
    scorer = ModelScorer(lm)
    together = scorer.generate(prompts, how, seed=3)
    assert scorer.generate(prompts[4:5], how, seed=3) == together[4:5]
    assert scorer.generate(prompts[::-1], how, seed=3) == together[::-1]
    assert scorer.generate(prompts, how, seed=4) != together


def test_no_prompts() -> None:
    scorer = ModelScorer(build(LLAMA))
    assert scorer.generate([], Decoding(), seed=0) == []
    assert scorer.loglikelihood([], []) == []
    assert scorer.rolling([]) == []
    assert scorer.embed([]).shape == (0, 32)


# -- predict --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", ["text", "token"])
def test_labels_are_the_plain_loops(each: Any) -> None:
    lm = build(BERT)
    lm.model = relabel(lm.model, Labels(("a", "b", "c"), each), torch.Generator().manual_seed(0))
    prompts = [replace(p, first=tuple(range(1, len(p.tokens) - 1, 2))) for p in prompts_of(lm, said(12, 9))]
    found = ModelScorer(lm, budget=60).predict(prompts)
    for prompt, got in zip(prompts, found, strict=True):
        want = plain_logits(lm, prompt)
        want = want[0] if each == "text" else want[list(prompt.first)]
        np.testing.assert_allclose(got, want.numpy(), atol=1e-5)
    assert ModelScorer(lm).labels == ("a", "b", "c")


def test_spans_are_the_plain_loops_window_by_window() -> None:
    lm = build(BERT)
    lm.model = relabel(lm.model, SPAN, torch.Generator().manual_seed(0))
    windows = [
        Window(p.tokens, tuple(int(at > 2) for at in range(len(p.tokens))), tuple(range(3, len(p.tokens) - 1)), 0, ())
        for p in prompts_of(lm, said(12, 9))
    ]
    asked = [Prompt((), None, "", windows=tuple(windows[at : at + 3])) for at in range(0, 12, 3)]
    done: list[int] = []
    found = ModelScorer(lm, budget=60).predict(asked, told=done.append)
    assert sum(done) == 4
    for prompt, got in zip(asked, found, strict=True):
        each = [
            lm.model(torch.tensor([w.tokens]), types=torch.tensor([w.types]))[0, list(w.first)] for w in prompt.windows
        ]
        np.testing.assert_allclose(got, torch.cat(each).detach().numpy(), atol=1e-5)


def test_each_shape_is_asked_what_it_can() -> None:
    speaks, labels = ModelScorer(build(LLAMA)), build(BERT)
    with pytest.raises(ValueError, match="this model has no labels to predict"):
        speaks.predict(prompts_of(build(LLAMA), ["a"]))
    with pytest.raises(ValueError, match="this model is an encoder, which writes no text"):
        ModelScorer(labels).generate(prompts_of(labels, ["a"]), Decoding(), seed=0)
    labels.model = relabel(labels.model, Labels(("a", "b")), torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="answers with labels and predicts no text"):
        ModelScorer(labels).rolling(["a"])


# -- rolling --------------------------------------------------------------------------------------------------


def test_a_short_text_is_one_row() -> None:
    lm = build(LLAMA)
    text = "the cat sat on a mat"
    (got,) = ModelScorer(lm).rolling([text])
    ids = lm.tokenizer.encode(text)
    logps = plain_logits(lm, Prompt((lm.tokenizer.eos or 0,), None, ""), tuple(ids))[:-1].log_softmax(-1)
    assert got.logp == pytest.approx(sum(float(logps[i, t]) for i, t in enumerate(ids)), rel=1e-5)
    assert (got.tokens, got.bytes) == (len(ids), len(text.encode()))


def test_a_long_text_is_windows() -> None:
    """50 tokens after BOS in a context of 20: predicted 0-19, 20-39, and 40-49 behind the ten before them."""
    tokens = list(range(100, 150))
    rows = strips(tokens, 1, 20)
    assert [row.tokens.tolist() for row in rows] == [[1, *range(100, 119)], [*range(119, 139)], [*range(129, 149)]]
    assert rows[2].targets.tolist() == list(range(130, 150))
    assert [int(row.weight.sum()) for row in rows] == [20, 20, 10]
    assert rows[2].weight.tolist() == [0.0] * 10 + [1.0] * 10


@given(st.integers(1, 90), st.integers(2, 30), st.booleans(), st.integers(0, 1))
def test_each_token_is_predicted_once(count: int, context: int, begun: bool, soft: int) -> None:
    tokens = list(range(100, 100 + count))
    rows = strips(tokens, 1 if begun else None, context, [500] * soft)
    predicted = [int(t) for row in rows for t, w in zip(row.targets, row.weight, strict=True) if w]
    assert predicted == tokens[0 if begun else 1 :]
    assert all(len(row.tokens) <= context for row in rows)
    for row in rows:  # what predicts a token is the one before it
        for token, target, weight in zip(row.tokens, row.targets, row.weight, strict=True):
            assert not weight or target == (100 if token == 1 else token + 1)
        assert row.tokens[:soft].tolist() == [500] * soft


@SPEAKERS
def test_rolling_in_batches_is_one_by_one(cfg: Config) -> None:
    lm = build(cfg)
    texts = [*said(6, 20), " ".join(said(20, 12)), ""]
    together = ModelScorer(lm).rolling(texts)
    for text, got in zip(texts, together, strict=True):
        (alone,) = ModelScorer(lm, budget=1).rolling([text])
        assert got.logp == pytest.approx(alone.logp, rel=1e-5)
        assert got[1:] == alone[1:]
    assert together[-1] == (0.0, 0, 0.0)
    assert together[6].tokens > 48 or cfg.encoder  # several windows


@pytest.mark.parametrize("cfg", [BERT, T5], ids=["bert", "t5"])
def test_gaps_are_always_the_same(cfg: Config) -> None:
    lm, other = build(cfg), build(cfg, seed=1)
    text = " ".join(said(3, 12))
    (one,), (two,) = ModelScorer(lm).rolling([text]), ModelScorer(other).rolling([text])
    assert one[1:] == two[1:]
    assert one.logp != two.logp
    rows = text_rows(text, lm.tokenizer, lm.model.cfg)
    again = text_rows(text, lm.tokenizer, lm.model.cfg)
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(rows, again, strict=True))
    assert 0.1 < one.bytes / len(text.encode()) < 0.3  # 15 % are hidden


@pytest.mark.parametrize("cfg", [LLAMA, BERT, T5], ids=["llama", "bert", "t5"])
def test_what_is_spared_for_a_soft_prompt_leaves_the_same_windows(cfg: Config) -> None:
    """The same tokens from the same ones: but for the soft prompt the rows are those of the model without."""
    lm, soft, text = build(cfg), [420, 421, 422], " ".join(said(20, 12))
    spared = text_rows(text, lm.tokenizer, lm.model.cfg, spare=3)
    tuned = text_rows(text, lm.tokenizer, lm.model.cfg, soft=soft)
    assert len(spared) == len(tuned) > 1
    for row, other in zip(spared, tuned, strict=True):
        read, behind = (row.tokens, other.tokens) if row.source is None else (row.source[0], other.source[0])
        assert behind.tolist() == [*soft, *read.tolist()]
        assert row.targets[row.weight > 0].tolist() == other.targets[other.weight > 0].tolist()
    here, there = ModelScorer(lm, spare=3).rolling([text]), ModelScorer(lm).rolling([text])
    assert here[0].tokens == sum(int(row.weight.sum()) for row in spared)
    assert here[0].logp != there[0].logp


def test_gaps_by_hand() -> None:
    lm = build(BERT)
    (row,) = text_rows("the cat sat on a mat and saw red birds", lm.tokenizer, lm.model.cfg)
    logits = plain_logits(lm, Prompt(tuple(row.tokens.tolist()), None, "")).log_softmax(-1)
    want = sum(float(logits[i, row.targets[i]]) for i in np.flatnonzero(row.weight))
    (got,) = ModelScorer(lm).rolling(["the cat sat on a mat and saw red birds"])
    assert got.logp == pytest.approx(want, rel=1e-5)
    assert got.tokens == row.weight.sum()


# -- embed and batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", [LLAMA, BERT, T5], ids=["llama", "bert", "t5"])
def test_embeddings_are_means(cfg: Config) -> None:
    lm = build(cfg)
    texts = said(5, 9)
    found = ModelScorer(lm).embed(texts)
    assert found.shape == (5, 32)
    for text, got in zip(texts, found, strict=True):
        x = torch.tensor([lm.tokenizer.encode(text, special=True)])
        with torch.no_grad():
            y = lm.model.encode(x).x if lm.model.encoder is not None else lm.model.hidden(x)
        np.testing.assert_allclose(got, y[0].mean(0).numpy(), atol=1e-5)


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_batches(lengths: list[int], budget: int) -> None:
    found = list(batches(lengths, budget))
    assert sorted(at for some in found for at in some) == list(range(len(lengths)))
    for some in found:
        assert len(some) == 1 or len(some) * max(lengths[at] for at in some) <= budget
    sizes = [lengths[at] for some in found for at in some]
    assert sizes == sorted(sizes)
