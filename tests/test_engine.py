"""Generation: ragged = alone, cached = uncached, ours = transformers, and where a continuation ends."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace

from modelwright.data import tokenizer as tokenizers
from modelwright.data.tokenizer import Tokenizer
from modelwright.infer import complete as completing
from modelwright.infer.complete import complete, generate, stream
from modelwright.infer.engine import Engine, New, Request
from modelwright.infer.fill import fill_mask
from modelwright.infer.packed import prepare
from modelwright.infer.sample import Sampling, generators
from modelwright.infer.text import Writer, encode, encode_prompts, overlap, writer
from modelwright.model import checkpoint
from modelwright.model.transformer import Config, Local, Relative, Rope, Transformer, initialise

V = 320
GPT2 = Config(
    vocab=V, width=32, layers=2, heads=4, kv_heads=4, head=8, ffn=64, context=48, norm="layer", act="gelu_tanh",
    gated=False, attn_bias=True, ffn_bias=True, learned=True,
)  # fmt: skip
LLAMA = replace(
    GPT2, kv_heads=2, norm="rms", act="silu", gated=True, attn_bias=False, ffn_bias=False, learned=False, rope=Rope(),
    tied=False,
)  # fmt: skip
T5 = replace(
    LLAMA, kv_heads=4, rope=None, relative=Relative(8, 20), attn_scale=1.0, eps=1e-6, act="gelu_tanh",
    encoder=replace(
        LLAMA, kv_heads=4, rope=None, relative=Relative(8, 20), attn_scale=1.0, eps=1e-6, act="gelu_tanh", causal=False
    ),
)  # fmt: skip
BERT = replace(GPT2, causal=False, types=2, head_transform=True, head_bias=True, embed_norm=True, pre_norm=False,
               final_norm=False)  # fmt: skip
SHAPES = {"gpt2": GPT2, "llama": LLAMA, "t5": T5}
WIDENED = {
    "mistral": replace(LLAMA, local=Local(6)),
    "qwen2": replace(LLAMA, qkv_bias=True, local=Local(6, (1,))),
    "qwen3": replace(LLAMA, qk_norm=True, head=12),
    "gemma3": replace(
        LLAMA, layers=3, norm="rms_from_one", qk_norm=True, part_norm=True, embed_scale=32**0.5, attn_scale=0.3,
        act="gelu_tanh", local=Local(6, (0, 1), Rope(50.0)),
    ),
    "bloom": replace(GPT2, learned=False, alibi=True, embed_norm=True),
    "palm": replace(LLAMA, kv_heads=1, parallel=True, norm="layer", norm_bias=False),
    "sines": replace(GPT2, learned=False, sinusoidal=True, embed_scale=32**0.5),
    "slopes-windows": replace(GPT2, learned=False, alibi=True, local=Local(6)),
}  # fmt: skip
GREEDY = Sampling(max_new=12, temperature=0)


def build(cfg: Config, seed: int = 0) -> Transformer:
    """A random model whose attention and greedy choices are far from even, so that a fault in them shows."""
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(seed)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(3.0 if "norm" not in name else 1.0)
    return model


def ragged(*lengths: int, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, V) for _ in range(length)] for length in lengths]


def news(model: Transformer, prompts: list[list[int]], sampling: Sampling = GREEDY, **more: Any) -> list[list[New]]:
    """What is new in each row, step by step; an encoder-decoder reads the prompts as its sources."""
    engine, n, alone = Engine(model), sampling.n, replace(sampling, n=1)
    seed = random.Random().randrange(2**32) if sampling.seed is None else sampling.seed
    drawn = None if sampling.greedy else generators(prompts, n, seed)
    asked = []
    for row in range(n * len(prompts)):
        prompt, source = prompts[row // n], None
        if model.encoder is not None:
            prompt, source = [0], prompt
        asked.append(Request(prompt, alone, source, generator=drawn and drawn[row], **more))
    return engine.run(asked)


def rows(model: Transformer, prompts: list[list[int]], sampling: Sampling = GREEDY, **more: Any) -> list[list[int]]:
    """The tokens of every row."""
    return [[new.token for new in row] for row in news(model, prompts, sampling, **more)]


@torch.no_grad()
def slowly(model: Transformer, prompt: list[int], new: int) -> list[int]:
    """Without a cache: the whole text again for each token."""
    tokens, memory = torch.tensor([prompt]), None
    if model.encoder is not None:
        tokens, memory = torch.tensor([[0]]), model.encode(tokens)
    start = tokens.size(1)
    for _ in range(new):
        tokens = torch.cat([tokens, model(tokens, memory=memory)[:, -1:].argmax(-1)], 1)
    return tokens[0, start:].tolist()


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("packed", [False, True])
def test_ragged_rows_equal_uncached_rows_alone(cfg, packed):
    plain = build(cfg)
    model = prepare(plain) if packed else plain
    prompts = ragged(9, 3, 17, 3, 1)
    expected = [slowly(plain, prompt, 12) for prompt in prompts]
    assert rows(model, prompts) == expected
    assert [rows(model, [prompt])[0] for prompt in prompts] == expected
    assert len({tuple(row) for row in expected}) == 5
    assert all(len(set(row)) > 3 for row in expected)  # not the same token on and on


@pytest.mark.parametrize("cfg", WIDENED.values(), ids=WIDENED)
@pytest.mark.parametrize("packed", [False, True])
def test_every_decoder_writes_as_if_it_read_all_again(cfg, packed):
    """Texts of many lengths together, most longer than the window, of which a step reads eight tokens at most: prompts
    are read in pieces, beside texts that are being written; two begin alike, and share what they read."""
    plain = build(cfg)
    model = prepare(plain) if packed else plain
    prompts = ragged(19, 3, 30, 7, 1)
    prompts.append([*prompts[2][:24], 5])
    expected = [slowly(plain, prompt, 12) for prompt in prompts]
    engine = Engine(model, budget=8, size=4, longest=48, texts=4)
    found = engine.run(Request(prompt, GREEDY) for prompt in prompts)
    assert [[new.token for new in row] for row in found] == expected
    assert rows(model, prompts) == expected
    assert len({tuple(row) for row in expected}) == len(prompts)


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
def test_greedy_equals_transformers(cfg, tmp_path):
    model = build(cfg, seed=1)
    checkpoint.save(model, tmp_path / "model")
    kind = transformers.AutoModelForSeq2SeqLM if cfg.encoder else transformers.AutoModelForCausalLM
    theirs = kind.from_pretrained(tmp_path / "model").eval()
    prompt = ragged(6)[0]
    settings: dict[str, Any] = {"max_new_tokens": 32, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    if cfg.encoder:
        settings["decoder_start_token_id"] = 0
    for penalty in (1.0, 1.4):
        out = theirs.generate(torch.tensor([prompt]), repetition_penalty=penalty, **settings)[0].tolist()
        start = 1 if cfg.encoder else len(prompt)
        assert rows(model, [prompt], replace(GREEDY, max_new=32, repetition_penalty=penalty))[0] == out[start:]


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
def test_samples_do_not_depend_on_their_neighbours(cfg):
    model, prompts = build(cfg), ragged(9, 3, 17)
    asked = Sampling(max_new=10, temperature=1.0, top_k=50, repetition_penalty=1.2, n=3, seed=7)
    together = rows(model, prompts, asked)
    assert together[3:6] == rows(model, prompts[1:2], asked)
    assert together[0:1] == rows(model, prompts[:1], replace(asked, n=1))
    assert together == rows(model, prompts, asked)
    assert len({tuple(row) for row in together}) == 9
    assert together != rows(model, prompts, replace(asked, seed=8))
    unseeded = replace(asked, seed=None)
    assert rows(model, prompts, unseeded) != rows(model, prompts, unseeded)


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
def test_rows_that_filled_the_context_stand_in_nobodys_way(cfg):
    """Two of five end where the context does, and the others write on: a learned position beyond it does not exist."""
    model, prompts = build(replace(cfg, context=24)), ragged(1, 4, 7, 12, 12)
    sampling = replace(GREEDY, max_new=32)
    found = rows(model, prompts, sampling)
    assert found == [rows(model, [prompt], sampling)[0] for prompt in prompts]
    assert [len(row) for row in found] == ([32] * 5 if cfg.encoder else [23, 20, 17, 12, 12])


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
def test_rows_end_at_any_eos_and_leave_the_batch(cfg):
    model, prompts = build(cfg), ragged(9, 3, 17, 4)
    full = rows(model, prompts)
    eos = {full[0][0], full[1][4], full[2][7]}
    for row in full:
        end = next((i for i, token in enumerate(row) if token in eos), len(row) - 1)
        del row[end + 1 :]
    assert len({len(row) for row in full}) > 2
    assert rows(model, prompts, ends=eos) == full
    finishes = [new.finish for row in news(model, prompts, ends=eos) for new in row if new.finish]
    assert sorted(finishes) == sorted("stop" if row[-1] in eos else "length" for row in full)


def test_logprobs_are_the_models_own():
    model, prompt = build(LLAMA), ragged(5)[0]
    asked = Sampling(max_new=8, temperature=0.5, top_p=0.9, repetition_penalty=1.5, seed=1, logprobs=True)
    [steps] = news(model, [prompt], asked)
    tokens = torch.tensor([prompt + [step.token for step in steps]])
    expected = model(tokens[:, :-1]).log_softmax(-1)[0, len(prompt) - 1 :].gather(1, tokens[0, len(prompt) :, None])
    torch.testing.assert_close(torch.tensor([step.logprob for step in steps]), expected[:, 0], atol=1e-5, rtol=1e-5)


def test_dropout_is_off_and_the_model_left_as_it_was():
    model = build(replace(GPT2, dropout=0.5)).train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    assert rows(model, ragged(5)) == rows(model, ragged(5))
    assert model.training
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_the_context_bounds_each_row_and_says_so():
    model = build(GPT2)
    assert [row[-1].finish for row in news(model, ragged(10, 40), Sampling(20, 0.0))] == ["length", "context"]
    assert list(map(len, rows(model, ragged(10, 40), Sampling(20, 0.0)))) == [20, 8]
    assert list(map(len, rows(model, ragged(47), Sampling(20, 0.0)))) == [1]
    with pytest.raises(ValueError, match=r"60 tokens.*context is 48"):
        rows(model, ragged(4, 60))
    with pytest.raises(ValueError, match=r"48 tokens.*context is 48"):
        rows(model, ragged(48))


def test_relative_positions_have_no_end():
    assert list(map(len, rows(build(T5), ragged(70), Sampling(60, 0.0)))) == [60]


# -- text ----------------------------------------------------------------------------------------


@dataclass
class Speaker:
    model: Transformer
    tokenizer: Tokenizer
    generation: dict[str, Any] = field(default_factory=dict)


TEXTS = ["the cat sat on the mat, the dog did not; a naïve 😀 smile and the end of it all"] * 3


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return tokenizers.train(TEXTS, "bpe", V)


@pytest.fixture(scope="module")
def speaker(bpe) -> Speaker:
    return Speaker(build(GPT2), bpe)


def chain(tokenizer: Tokenizer, prompt: list[int], ids: list[int]) -> Speaker:
    """A model that after the prompt's last token says these ids, all different: each token's successor is fixed."""
    cfg = replace(GPT2, vocab=tokenizer.vocab, width=tokenizer.vocab, layers=1, tied=False)
    model = Transformer(cfg).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.stack.norm.weight.fill_(1.0)
        model.embed.tokens.weight.copy_(torch.eye(cfg.vocab))
        for token, successor in zip([prompt[-1], *ids], ids, strict=False):
            model.head.proj.weight[successor, token] = 1.0
    return Speaker(model, tokenizer)


def test_a_stream_shows_whole_characters_only(bpe):
    prompt, text = bpe.encode("the", special=True), "né😀x"
    ids = [bpe.encode("the")[-1], *(bpe.inner.token_to_id(piece) for piece in "nÃ©ðŁĺĢx")]
    lm = chain(bpe, prompt, ids[1:])
    pieces = list(stream(lm, "the", max_new=8))
    assert pieces == ["n", "é", "😀", "x"]
    assert generate(lm, "the", max_new=8) == text
    assert generate(lm, "the", max_new=5) == "né\ufffd"  # cut in the middle of a character, which is said
    assert generate(lm, "the", max_new=8, stop="é") == "n"
    assert "".join(stream(lm, "the", max_new=8, stop=("😀x", "xyz"))) == "né"


def test_completions_say_how_they_ended(bpe):
    prompt = bpe.encode("the", special=True)
    ids = [bpe.inner.token_to_id(piece) for piece in "abc"] + [bpe.eos]
    lm = chain(bpe, prompt, ids)
    [done] = complete(lm, ["the"], max_new=9)
    assert (done.text, done.tokens, done.finish, done.logprobs) == ("abc", ids, "stop", None)
    [done] = complete(lm, ["the"], max_new=2, logprobs=True)
    assert (done.text, done.finish, len(done.logprobs)) == ("ab", "length", 2)
    [done] = complete(lm, ["the"], max_new=9, stop="bc")
    assert (done.text, done.tokens, done.finish) == ("a", ids[:3], "stop")
    lm.generation["eos_token_id"] = [ids[1], 5]
    assert complete(lm, ["the"], max_new=9)[0].tokens == ids[:2]


def test_text_of_a_batch_equals_text_alone(speaker):
    prompts = ["the cat", "a naïve dog did not", "", "the cat", "sat on"] * 9  # more than are decoded together
    together = generate(speaker, prompts, max_new=6)
    assert together == [generate(speaker, prompt, max_new=6) for prompt in prompts]
    assert together[1] == "".join(stream(speaker, prompts[1], max_new=6))


def test_no_prompts_give_no_text(speaker):
    assert generate(speaker, []) == []
    assert generate(replace(speaker, model=build(T5)), []) == []


def test_whether_weights_are_packed_does_not_depend_on_the_other_prompts(speaker, monkeypatch):
    packed = []
    monkeypatch.setattr(completing, "prepare", lambda model: packed.append(model) or model)
    for prompts, new in ((["the cat"], 31), (["the cat"] * 70, 31), (["the cat"], 32), (["the cat"] * 70, 32)):
        generate(speaker, prompts, max_new=new)
        assert len(packed) == (new >= completing.PACKING_PAYS)
        packed.clear()


def test_a_changed_weight_is_seen(speaker):
    lm = replace(speaker, model=build(GPT2))
    before = generate(lm, "the cat", max_new=40)
    lm.model.stack.blocks[1].ffn.down.weight.data.mul_(-1.0)
    after = generate(lm, "the cat", max_new=40)
    assert after != before
    slow = Speaker(build(GPT2), lm.tokenizer)
    slow.model.load_state_dict(lm.model.state_dict())
    assert after == generate(slow, "the cat", max_new=40)


def test_samples_of_a_prompt_stand_side_by_side(speaker):
    asked = {"max_new": 6, "temperature": 1.0, "seed": 3}
    found = generate(speaker, ["the cat", "a dog"], n=2, **asked)
    assert len(set(found)) == 4
    assert found[2:] == generate(speaker, "a dog", n=2, **asked)
    assert found[0] == generate(speaker, "the cat", **asked) == "".join(stream(speaker, "the cat", **asked))
    assert generate(speaker, ["the cat"] * 2, **asked) == found[:2]  # a prompt again is its next sample


def test_what_denoises_reads_masks_and_begins_with_the_token_that_is_forced():
    words = tokenizers.train(TEXTS, "bpe", 400, objective="denoise")
    assert T5.encoder is not None
    lm = Speaker(build(replace(T5, vocab=words.vocab, encoder=replace(T5.encoder, vocab=words.vocab))), words)
    bos, eos, mask = words.bos, words.eos, words.mask
    lm.generation = {"decoder_start_token_id": eos, "forced_bos_token_id": bos}
    read = encode_prompts(lm, ["the cat <mask> the mat", "</s> <s>"])
    assert read.prompts == [[eos, bos]] * 2
    # the space before it is part of what a mask hides
    assert read.sources[0] == [bos, *words.encode("the cat"), mask, *words.encode(" the mat"), eos]
    assert not {bos, eos, mask} & set(read.sources[1][1:-1])  # what a text spells is text


def test_an_encoder_decoder_begins_with_the_padding_or_what_its_config_says():
    words = tokenizers.train(TEXTS, "unigram", 400, objective="span")
    assert T5.encoder is not None
    lm = Speaker(build(replace(T5, vocab=words.vocab, encoder=replace(T5.encoder, vocab=words.vocab))), words)
    texts = ["the cat <extra_id_0> the mat", "the dog"]
    sources = [encode(lm.tokenizer, text, lm.tokenizer.sentinels) for text in texts]
    assert lm.tokenizer.sentinels[0] in sources[0]
    assert [source[-1] for source in sources] == [lm.tokenizer.eos] * 2
    for said, start in (({}, lm.tokenizer.pad), ({"decoder_start_token_id": 5}, 5)):
        lm.generation = said
        found = [done.tokens for done in complete(lm, texts, max_new=5)]
        engine = Engine(lm.model)
        asked = [Request([start], Sampling(5, 0.0), source, {lm.tokenizer.eos}) for source in sources]
        assert found == [[new.token for new in stream] for stream in map(engine.submit, asked)]


def test_faults_are_one_sentence(speaker):
    with pytest.raises(ValueError, match=r"prompt has \d+ tokens.*context is 48"):
        generate(speaker, ["the", "the cat sat " * 40], max_new=2)
    with pytest.raises(ValueError, match="n is 2: use generate"):
        stream(speaker, "the", n=2)
    with pytest.raises(ValueError, match="no sampling setting 'heat'"):
        generate(speaker, "the", heat=3)
    with pytest.raises(ValueError, match="a decoder has no mask"):
        fill_mask(speaker, "the [MASK]")
    with pytest.raises(ValueError, match="is an encoder"):
        generate(replace(speaker, model=build(BERT)), "the")


# -- stop strings --------------------------------------------------------------------------------


class Spelled:
    """In a decoder's place: what comes in is already text, and the end flushes a last bit."""

    def __init__(self, rest: str = "") -> None:
        self.rest = rest

    def push(self, piece: str) -> str:
        return piece

    def finish(self) -> str:
        return self.rest


def up_to_first_stop(text: str, stop: tuple[str, ...]) -> str:
    """One character at a time, until some stop string is complete."""
    for end in range(1, len(text) + 1):
        if ended := [s for s in stop if text[:end].endswith(s)]:
            return text[: end - max(map(len, ended))]
    return text


@given(
    st.lists(st.text("ab ", max_size=4), max_size=8),
    st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3),
    st.text("ab", max_size=2),
)
def test_stop_strings_never_leak_however_the_text_is_cut(parts, stop, rest):
    write = Writer(Spelled(rest), tuple(stop))
    shown = ""
    for part in parts:
        if not write.stopped:
            shown += write.push(part)
            assert up_to_first_stop("".join(parts) + rest, tuple(stop)).startswith(shown)
    shown += write.finish()
    assert shown == up_to_first_stop("".join(parts) + rest, tuple(stop))


def test_overlap_by_hand():
    assert [overlap(text, "</s>") for text in ("a", "a<", "a</", "a</s", "a</s>", "<a", "")] == [0, 1, 2, 3, 0, 0, 0]


def test_a_writer_goes_on_from_the_prompt():
    """Such a vocabulary drops the space before a text's first word; a continuation's first word is not the text's."""
    inner = tokenizers.tokenizers.Tokenizer(Unigram([("<unk>", 0.0), ("▁the", -1.0), ("▁cat", -1.0)], unk_id=0))
    inner.pre_tokenizer, inner.decoder = Metaspace(), decoders.Metaspace()
    words = Tokenizer(inner, {})
    assert words.encode("the cat") == [1, 2]
    for before, expected in (([1], " cat the"), ([], "cat the")):
        write = writer(words, before, ())
        assert write.push(2) + write.push(1) + write.finish() == expected


# -- masks ---------------------------------------------------------------------------------------


def test_fill_mask_is_the_models_distribution():
    words = tokenizers.train(TEXTS, "wordpiece", V, objective="masked")
    lm = Speaker(build(replace(BERT, vocab=words.vocab)), words)
    text = "the [MASK] sat [SEP] on [MASK]."
    ids = encode(words, text, (words.mask,))
    plain = [*words.encode("the"), words.mask, *words.encode("sat [SEP] on"), words.mask, *words.encode(".")]
    assert ids == [words.cls, *plain, words.sep]
    assert ids.count(words.sep) == 1  # what a text spells out is text
    found = fill_mask(lm, text, top=4)
    probs = lm.model(torch.tensor([ids])).softmax(-1)[0]
    for candidates, place in zip(found, [i for i, token in enumerate(ids) if token == words.mask], strict=True):
        best = probs[place].topk(4)
        assert [c.token for c in candidates] == best.indices.tolist()
        torch.testing.assert_close(torch.tensor([c.probability for c in candidates]), best.values)
        assert [c.text for c in candidates] == [words.decode([c.token], special=True) for c in candidates]
    with pytest.raises(ValueError, match=r"no \[MASK\] to fill"):
        fill_mask(lm, "the cat sat")
    with pytest.raises(ValueError, match="top"):
        fill_mask(lm, text, top=0)
    with pytest.raises(ValueError, match=r"\d+ tokens.*context is 48"):
        fill_mask(lm, "[MASK]" + " the" * 60)


@pytest.mark.parametrize("cfg", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_shared_beginning_is_read_once_and_changes_nothing(cfg, packed):
    plain = build(cfg)
    model = prepare(plain) if packed else plain
    (start,) = ragged(20)
    prompts = [[*start, *tail] for tail in ragged(*[1, 2, 5, 9] * 5, seed=1)] + [start] * 3
    expected = [slowly(plain, prompt, 6) for prompt in prompts]
    assert rows(model, prompts, Sampling(max_new=6, temperature=0)) == expected


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("seed", range(20))
def test_each_reply_is_what_it_is_alone_whatever_the_schedule(cfg, seed):
    """Of a real model: requests of all kinds, in caches large and small, in steps of any size."""
    draw, model = random.Random(seed), build(cfg)
    model = prepare(model) if seed % 2 else model
    stem, prompts = ragged(11, seed=9)[0], ragged(*[draw.randint(1, 20) for _ in range(10)], seed=seed)
    prompts = [[*(stem if draw.random() < 0.5 else []), *prompt] for prompt in prompts]
    kinds = [
        GREEDY, Sampling(9, 1.3, top_k=20, seed=5), Sampling(10, 0.8, repetition_penalty=1.3, top_p=0.9, seed=2),
        Sampling(8, 0.0, frequency_penalty=0.7),
    ]  # fmt: skip
    asked = [draw.choice(kinds) for _ in prompts]
    alone = [rows(model, [prompt], kind)[0] for prompt, kind in zip(prompts, asked, strict=True)]
    blocks, longest = draw.choice([(14, 44), (40, 44), (200, 44), (200, 24)])
    engine = Engine(
        model, longest=longest, blocks=blocks, size=4, budget=draw.choice([4, 16, 64]), texts=draw.choice([2, 5, 16])
    )
    pairs = zip(prompts, asked, strict=True)
    streams = [
        engine.submit(Request([0], kind, prompt) if cfg.encoder else Request(prompt, kind)) for prompt, kind in pairs
    ]
    gone = draw.choice(streams)
    engine.leave(gone)
    given = ragged(draw.randint(9, 30), seed=seed + 50)[0]  # is scored beside them
    judged = engine.submit(Request(given, GREEDY, prompts[0] if cfg.encoder else None, scored=5))
    found = {stream: [new.token for new in stream] for stream in draw.sample(streams, len(streams))}
    assert [found[stream] for stream in streams if stream is not gone] == [
        row for row, stream in zip(alone, streams, strict=True) if stream is not gone
    ]
    assert not list(judged)
    with torch.no_grad():
        memory = model.encode(torch.tensor([prompts[0]])) if cfg.encoder else None
        expected = -model(torch.tensor([given[:-1]]), torch.tensor([given[1:]]), memory=memory)[0, 4:]
    torch.testing.assert_close(torch.tensor([s.logp for s in judged.scores]), -expected, atol=1e-4, rtol=1e-4)
    assert engine.scheduler.blocks.available == engine.scheduler.blocks.count
    assert engine.sources is None or sorted(engine.sources.free) == list(range(len(engine.sources.lengths)))
    assert not engine.read
    assert engine.step() == []


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
def test_tokens_that_are_given_are_as_likely_as_in_one_forward(cfg):
    model, source = build(cfg), ragged(7)[0] if cfg.encoder else None
    texts = ragged(30, 17, 17, seed=4)
    texts[2][:9] = texts[1][:9]
    engine = Engine(model, size=4, budget=8)
    streams = [engine.submit(Request(text, GREEDY, source, scored=9)) for text in texts]
    for asked, text in zip(streams, texts, strict=True):
        assert not list(asked)
        with torch.no_grad():
            memory = model.encode(torch.tensor([source])) if source else None
            logps = model(torch.tensor([text]), memory=memory)[0, 8:-1].log_softmax(-1)
        expected = logps.gather(1, torch.tensor(text[9:])[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor([s.logp for s in asked.scores]), expected, atol=1e-5, rtol=1e-5)
        assert [s.best for s in asked.scores] == (logps.argmax(-1) == torch.tensor(text[9:])).tolist()


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("budget", [512, 64, 53])
def test_a_beginning_that_is_found_is_the_one_that_is_computed_bit_for_bit(cfg, packed, budget):
    shape = {"width": 64, "head": 16, "ffn": 192, "context": 400}
    cfg = replace(cfg, **shape, encoder=cfg.encoder and replace(cfg.encoder, **shape))
    model, draw, source = build(cfg), random.Random(budget), ragged(5)[0] if cfg.encoder else None
    model = prepare(model) if packed else model

    def logits(prompt: list[int], first: list[list[int]]) -> tuple[list[torch.Tensor], int]:
        """Of each token that is written, after these texts were read; and how many tokens of the prompt were."""
        engine, seen, computed = Engine(model, longest=400, texts=4, budget=budget), [], 0
        engine.run([Request(text, GREEDY, source) for text in first])
        rules, plan = engine.draw, engine.scheduler.plan

        def drawing(streams, hidden):
            seen.extend(hidden[stream] for stream in streams)
            return rules(streams, hidden)

        def planning():
            nonlocal computed
            found = plan()
            computed += sum(s.end - s.start for s in found.slices)
            return found

        engine.draw, engine.scheduler.plan = drawing, planning
        engine.run([Request(prompt, GREEDY, source)])
        return seen, computed

    for stem, tail in [(20, 3), (130, 1), (200, 40), (draw.randint(16, 250), draw.randint(1, 60))]:
        start, end, other = ragged(stem, tail, 9, seed=stem)
        miss, whole = logits(start + end, [])
        hit, rest = logits(start + end, [start + other])
        assert rest <= whole - 16
        assert [torch.equal(a, b) for a, b in zip(hit, miss, strict=True)] == [True] * len(miss), (stem, tail)


@pytest.mark.parametrize("cfg", [GPT2, T5], ids=["gpt2", "t5"])
@pytest.mark.parametrize(("change", "fault"), [
    ({"prompt": []}, "at least one token"),
    ({"scored": 0}, "first token to be scored is 0"),
    ({"scored": 5}, "it has 5 tokens"),
    ({"prompt": [3] * 60, "scored": 4}, "60 tokens.*context is 48"),
    ({"source": []}, "needs a source"),
    ({"source": "other"}, "needs a source"),
    ({"adapter": "none"}, "no adapter 'none'"),
])  # fmt: skip
def test_a_request_that_would_end_its_neighbours_is_refused(cfg, change, fault):
    engine, own = Engine(build(cfg)), [5, 6, 7] if cfg.encoder else None
    asked = Request([3, 4, 5, 6, 7], GREEDY, own)
    if change.get("source") == "other":  # one where there is none, none where there is one
        change = {"source": None if cfg.encoder else [5]}
    if cfg.encoder and "prompt" in change and change["prompt"]:
        return  # relative positions have no end
    with pytest.raises(ValueError, match=fault):
        engine.submit(replace(asked, **change))
    assert len(engine.run([asked])[0]) == 12


def test_the_cache_is_no_larger_than_the_texts_can_become(speaker, monkeypatch):
    made = []

    class Watched(Engine):
        def __init__(self, *args, **how):
            super().__init__(*args, **how)
            made.append(self.pages.count.numel())

    monkeypatch.setattr(completing, "Engine", Watched)
    assert generate(speaker, "the cat", max_new=10**6, temperature=0)
    assert generate(speaker, ["the cat", "a"], max_new=10**6, temperature=0)
    assert made == [48, 96]


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES)
def test_a_text_that_made_room_for_another_is_scored_once(cfg):
    model, source = build(cfg), ragged(5)[0] if cfg.encoder else None
    growing, text = ragged(11, 31, seed=3)
    engine = Engine(model, blocks=12, size=4, budget=8, texts=4)
    writer = engine.submit(Request(growing, Sampling(20, 0.0), source))
    judged = engine.submit(Request(text, GREEDY, source, scored=1))
    begun = 0
    while not judged.ended:
        engine.step()
        begun += judged.text in engine.scheduler.waiting and bool(judged.scores)
    assert begun  # it had been read in part when its blocks were needed
    assert not list(judged)
    assert len(list(writer)) + writer.written >= 20
    with torch.no_grad():
        memory = model.encode(torch.tensor([source])) if source else None
        expected = model(torch.tensor([text[:-1]]), torch.tensor([text[1:]]), memory=memory)[0]
    torch.testing.assert_close(torch.tensor([s.logp for s in judged.scores]), expected, atol=1e-4, rtol=1e-4)


def test_what_one_owner_has_read_is_not_found_by_another():
    engine, (text,) = Engine(build(GPT2), size=4), ragged(30)
    computed = []
    plan = engine.scheduler.plan

    def planning():
        found = plan()
        computed.append(sum(s.end - s.start for s in found.slices))
        return found

    engine.scheduler.plan = planning
    for owner in (None, "a", "b", "a", None):
        engine.run([Request(text, Sampling(1, 0.0), owner=owner)])
    assert computed == [30, 30, 30, 6, 6]
