"""Beam search: equal to another library's and to looking at every text; what ends a text; rows by themselves."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from modelwright.data import tokenizer as tokenizers
from modelwright.hub.open import LanguageModel
from modelwright.infer.beam import Hypothesis, beam_search, likeliest, parts
from modelwright.infer.complete import complete, generate, stream, written
from modelwright.infer.engine import Engine, Request
from modelwright.infer.packed import prepare
from modelwright.infer.sample import Sampling, settings
from modelwright.infer.text import Encoded, encode_prompts, eos_ids
from modelwright.model import checkpoint
from modelwright.model.transformer import Config, Rope, Transformer, initialise

KINDS = ["gpt2", "llama-grouped-tied", "t5"]
START = 0  # what T5's decoder begins with


def both(name: str, directory: Path) -> tuple[Any, Transformer]:
    theirs = tiny.make(name)
    with torch.no_grad():  # even enough that texts end anywhere
        theirs.get_output_embeddings().weight.mul_(0.7)
    theirs.save_pretrained(directory)
    return theirs, checkpoint.load(directory).eval()


def ragged(*lengths: int, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, tiny.VOCAB) for _ in range(length)] for length in lengths]


def encoded(model: Transformer, prompts: list[list[int]]) -> Encoded:
    return Encoded([[START]] * len(prompts), prompts) if model.encoder else Encoded(prompts, None)


def found(model: Transformer, prompts: list[list[int]], ends: list[int], **asked: Any) -> list[list[Hypothesis]]:
    sampling = Sampling(temperature=0, **asked)
    return [best for _, best in sorted(beam_search(model, encoded(model, prompts), sampling, ends))]


def peers(theirs: Any, prompts: list[list[int]], ends: list[int], **asked: Any) -> list[list[tuple[list[int], float]]]:
    """Tokens and score of the best texts of each prompt, by transformers."""
    longest, n = max(map(len, prompts)), asked["n"]
    seq2seq = theirs.config.is_encoder_decoder
    gaps = [[0] * (longest - len(prompt)) for prompt in prompts]
    ids = torch.tensor([prompt + gap if seq2seq else gap + prompt for prompt, gap in zip(prompts, gaps, strict=True)])
    mask = torch.tensor([[1] * len(prompt) + gap if seq2seq else gap + [1] * len(prompt)
                         for prompt, gap in zip(prompts, gaps, strict=True)])  # fmt: skip
    out = theirs.generate(
        ids, attention_mask=mask, num_beams=asked["beams"], length_penalty=asked["length_penalty"], do_sample=False,
        num_return_sequences=n, max_new_tokens=asked["max_new"], eos_token_id=ends or None, pad_token_id=-1,
        return_dict_in_generate=True, output_scores=True, early_stopping=False,
    )  # fmt: skip
    start = 1 if seq2seq else longest
    rows = [[token for token in row[start:].tolist() if token != -1] for row in out.sequences]
    pairs = list(zip(rows, out.sequences_scores.tolist(), strict=True))
    return [pairs[at : at + n] for at in range(0, len(pairs), n)]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("name", KINDS)
def test_equal_to_transformers(name: str, penalty: float, tmp_path: Path) -> None:
    theirs, ours = both(name, tmp_path)
    prompts, lengths = ragged(5, 12, 1, 7, 12, 30), set()
    for ends in ([7], [7, 11, 40], list(range(20, 28)), list(range(9, 61))):
        asked = {"max_new": 14, "beams": 4, "n": 3, "length_penalty": penalty}
        expected = peers(theirs, prompts, ends, **asked)
        for model in (ours, prepare(ours)):
            rows = found(model, prompts, ends, **asked)
            assert [[list(one.tokens) for one in row] for row in rows] == [[ids for ids, _ in row] for row in expected]
            scores = torch.tensor([[one.score for one in row] for row in rows])
            torch.testing.assert_close(
                scores, torch.tensor([[s for _, s in row] for row in expected]), atol=1e-4, rtol=0
            )
        lengths |= {len(ids) for row in expected for ids, _ in row}
    assert len(lengths) > (3 if penalty < 1 else 1), lengths  # ends there were, of one search early, of another late


# -- every text that there is -------------------------------------------------------------------------------------

TINY = Config(vocab=5, width=16, layers=1, heads=2, kv_heads=2, head=8, ffn=16, context=32, rope=Rope())
END, NEW = 4, 4


def drawn(cfg: Config, seed: int, scale: float = 3.0) -> Transformer:
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(seed)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(scale if "norm" not in name else 1.0)
    return model


@torch.no_grad()
def every(model: Transformer, prompt: list[int], penalty: float) -> list[tuple[float, tuple[int, ...]]]:
    """The score of each text of at most NEW tokens that ends at END or is as long, the best first."""
    texts = set()
    for tokens in itertools.product(range(model.cfg.vocab), repeat=NEW):
        texts.add(tokens[: tokens.index(END) + 1] if END in tokens else tokens)
    scored: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, NEW + 1):
        some = [tokens for tokens in texts if len(tokens) == length]
        whole = torch.tensor([[*prompt, *tokens] for tokens in some])
        logps = model(whole).log_softmax(-1)[:, len(prompt) - 1 : -1]  # (n, T, V)
        totals = logps.gather(2, whole[:, len(prompt) :, None]).sum((1, 2)).tolist()
        scored += [(total / length**penalty, tokens) for total, tokens in zip(totals, some, strict=True)]
    return sorted(scored, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(2))
def test_beams_enough_for_every_text_find_the_best(seed: int, penalty: float) -> None:
    model, prompts = drawn(TINY, seed), [[1, 2], [3], [0, 2, 2, 1]]
    greedy = found(model, prompts, [END], max_new=NEW, beams=1)
    all_of_them = found(model, prompts, [END], max_new=NEW, beams=5**NEW, n=9, length_penalty=penalty)
    for prompt, best, (first,) in zip(prompts, all_of_them, greedy, strict=True):
        expected = every(model, prompt, penalty)
        assert [one.tokens for one in best] == [tokens for _, tokens in expected[:9]]
        assert [one.score for one in best] == pytest.approx([score for score, _ in expected[:9]], abs=1e-4)
        assert best[0].score >= {tokens: score for score, tokens in expected}[first.tokens] - 1e-5


def test_few_beams_may_miss_it_and_more_find_it() -> None:
    best = [every(drawn(TINY, seed), [1, 2], 1.0)[0] for seed in range(12)]
    hits = [
        sum(found(drawn(TINY, seed), [[1, 2]], [END], max_new=NEW, beams=beams)[0][0].tokens == tokens
            for seed, (_, tokens) in enumerate(best))
        for beams in (1, 2, 125)
    ]  # fmt: skip
    assert hits[0] < hits[1] < hits[2] == 12


# -- one model of words -------------------------------------------------------------------------------------------

SAID = ["the cat sat on the mat, the dog did not; a naïve smile and the end of it all"] * 3
SHAPE = Config(vocab=0, width=32, layers=2, heads=4, kv_heads=2, head=8, ffn=64, context=48, rope=Rope())


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    words = tokenizers.train(SAID, "bpe", 300, objective="causal")
    return LanguageModel(drawn(replace(SHAPE, vocab=words.vocab), 0, 1.6), words, {})


def test_one_beam_is_greedy(lm: LanguageModel) -> None:
    prompts = ragged(9, 3, 17, 3, 1)
    asked = [Request(prompt, Sampling(12, 0.0), ends={7}) for prompt in prompts]
    expected = [[new.token for new in row] for row in Engine(lm.model).run(asked)]
    assert [list(best[0].tokens) for best in found(lm.model, prompts, [7], max_new=12, beams=1)] == expected


def test_a_text_does_not_depend_on_its_neighbours(lm: LanguageModel) -> None:
    prompts = ragged(9, 3, 17, 3, 1, 40)
    asked: dict[str, Any] = {"max_new": 12, "beams": 3, "n": 2, "length_penalty": 0.6}
    rows = found(lm.model, prompts, list(range(0, 300, 9)), **asked)
    alone = [found(lm.model, [prompt], list(range(0, 300, 9)), **asked)[0] for prompt in prompts]
    assert [[one.tokens for one in row] for row in rows] == [[one.tokens for one in row] for row in alone]
    assert len({len(one.tokens) for row in rows for one in row}) > 2
    assert {one.finish for one in rows[-1]} <= {"stop", "context"}  # 40 of 48 tokens were the prompt's


def test_log_probabilities_are_those_of_the_text(lm: LanguageModel) -> None:
    (best,) = found(lm.model, [[5, 6, 7]], [9], max_new=8, beams=4, n=4, length_penalty=0.5)
    for one in best:
        whole = torch.tensor([[5, 6, 7, *one.tokens]])
        logps = lm.model(whole).log_softmax(-1)[0, 2:-1].gather(1, whole[0, 3:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(one.logps), logps, atol=1e-4, rtol=1e-4)
        assert one.score == pytest.approx(logps.sum().item() / len(one.tokens) ** 0.5, abs=1e-4)
    assert [one.score for one in best] == sorted((one.score for one in best), reverse=True)
    assert len({one.tokens for one in best}) == 4


def test_texts_of_prompts(lm: LanguageModel) -> None:
    prompts = ["the cat", "a dog did not", "the end of it all and"]
    done = complete(lm, prompts, max_new=6, beams=3, n=2, logprobs=True)
    assert len(done) == 6
    for at, prompt in enumerate(prompts):
        best = found(lm.model, encode_prompts(lm, [prompt]).prompts, sorted(eos_ids(lm)), max_new=6, beams=3, n=2)[0]
        assert [one.tokens for one in done[2 * at : 2 * at + 2]] == [list(one.tokens) for one in best]
        assert [one.logprobs for one in done[2 * at : 2 * at + 2]] == [
            pytest.approx(one.logps, abs=1e-4) for one in best
        ]
    assert generate(lm, "the cat", max_new=6, beams=3) == done[0].text == "".join(
        stream(lm, "the cat", max_new=6, beams=3)
    )  # fmt: skip


def test_a_stop_string_ends_a_hypothesis(lm: LanguageModel) -> None:
    """What would be cut anyway is not ranked: the search ends where the text does."""
    finishes = set()
    for stop in "aehnt ":
        for one in complete(lm, ["the cat"], max_new=10, beams=3, n=3, length_penalty=0.3, stop=stop):
            finishes.add(one.finish)
            assert stop not in one.text
            assert (stop in lm.tokenizer.decode(one.tokens)) == (
                one.finish == "stop" and one.tokens[-1] not in eos_ids(lm)
            )
            assert stop not in lm.tokenizer.decode(one.tokens[:-1])
    assert finishes == {"stop", "length"}


def test_an_encoder_decoder_s_beams_share_their_source(tmp_path: Path) -> None:
    """As a model reads it whose every beam has a source of its own."""
    _, model = both("t5", tmp_path)
    prompts, ends = ragged(5, 12, 7), [7, 8, 9, 10]
    rows = found(model, prompts, ends, max_new=9, beams=3, n=3, length_penalty=0.6)
    with torch.no_grad():
        for prompt, best in zip(prompts, rows, strict=True):
            memory = model.encode(torch.tensor([prompt]))
            for one in best:
                whole = torch.tensor([[START, *one.tokens]])
                logps = model(whole, memory=memory).log_softmax(-1)[0, :-1].gather(1, whole[0, 1:, None])[:, 0]
                torch.testing.assert_close(torch.tensor(one.logps), logps, atol=1e-4, rtol=1e-4)


# -- parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [8, 600, 1000, 4096, 32001])
def test_the_likeliest_are_found_in_chunks(vocab: int) -> None:
    logits = torch.randn(6, vocab, generator=torch.Generator().manual_seed(vocab))
    values, tokens = likeliest(logits, 8)
    torch.testing.assert_close(values, logits.topk(8).values, rtol=0, atol=0)
    assert torch.equal(tokens, logits.topk(8).indices)


def test_texts_of_a_forward_are_bounded(lm: LanguageModel) -> None:
    prompts = Encoded(ragged(*[20] * 70), None)
    some = list(parts(lm.model, prompts, Sampling(8, 0.0, beams=4)))
    assert [len(part) for part in some] == [32, 32, 6]
    assert sorted(at for part in some for at in part) == list(range(70))
    assert [len(part) for part in parts(lm.model, prompts, Sampling(8, 0.0, beams=400))] == [1] * 70


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"beams": 0}, "beams must be a whole number of at least 1"),
        ({"beams": 4, "temperature": 0.7}, "4 beams look for the likeliest text and draw nothing"),
        ({"beams": 4, "seed": 3}, "draw nothing"),
        ({"beams": 4, "n": 5}, "n is 5, but 4 beams find 4 texts"),
        ({"beams": 4, "repetition_penalty": 1.2}, "without penalties"),
        ({"beams": 4, "length_penalty": -1.0}, "length_penalty must be 0 or more"),
        ({"length_penalty": 0.5}, "ranks the texts of beams: say beams"),
    ],
)
def test_settings_that_do_not_go_together(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        settings({}, **asked)


def test_a_model_s_own_settings() -> None:
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "length_penalty": 2.0, "num_beams": 4}
    assert settings(own, beams=3, n=2) == Sampling(temperature=0.0, beams=3, n=2, length_penalty=2.0)
    assert settings(own, beams=3, length_penalty=0.5).length_penalty == 0.5
    assert settings(own) == Sampling(temperature=0.6, top_p=0.9)  # beams are for those who ask for them


def test_who_cannot_search_says_so(lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="an engine writes each text along one"):
        Engine(lm.model).submit(Request([5], Sampling(4, 0.0, beams=2)))
    asked = Sampling(4, 0.0, beams=2)
    with pytest.raises(ValueError, match="beams are held to no JSON schema"):
        list(written(lm, lm.model, Encoded([[5]], None), asked, [], bias={3: 1.0}))
    with pytest.raises(ValueError, match="the prompt has 48 tokens, but the model's context is 48"):
        found(lm.model, ragged(48), [9], max_new=4, beams=2)


def test_what_the_settings_forbid_is_never_written(lm: LanguageModel) -> None:
    """As Marian's padding is: by the likeliest token each time, and by beams, where it keeps its probability."""
    (free,) = complete(lm, ["the"], max_new=6)
    never = free.tokens[0]
    strict = replace(lm, generation={"bad_words_ids": [[never]]})
    for beams in (1, 3):
        (held,) = complete(strict, ["the"], max_new=6, beams=beams)
        assert never not in held.tokens
    with pytest.raises(ValueError, match=r"bad_words_ids = \[\[1, 2\]\]; supported: lists of one token each"):
        complete(replace(lm, generation={"bad_words_ids": [[1, 2]]}), ["the"])


def test_what_is_forbidden_keeps_its_probability(lm: LanguageModel) -> None:
    """As in transformers: what is written instead is no likelier for it."""
    (free,) = found(lm.model, [[5, 6, 7]], [9], max_new=6, beams=3)
    never = {free[0].tokens[0]}
    asked = encoded(lm.model, [[5, 6, 7]]), Sampling(6, 0.0, beams=3), [9], None, never
    ((_, (best, *_)),) = beam_search(lm.model, *asked)
    assert not never & set(best.tokens)
    whole = torch.tensor([[5, 6, 7, *best.tokens]])
    logps = lm.model(whole).log_softmax(-1)[0, 2:-1].gather(1, whole[0, 3:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(best.logps), logps, atol=1e-4, rtol=1e-4)
