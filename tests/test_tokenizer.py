"""Tokenizers: gold tokenisations, other libraries, round trips, and what a user's text may not do."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data import vocabularies
from modelwright.data.tokenizer import Decoder, Tokenizer, train

KINDS = ("bpe", "wordpiece", "unigram")
OBJECTIVES = ("causal", "masked", "span", "denoise")
TEXTS = [
    f"The {colour} {thing} costs {n * 37} euros, said {who}.\nDoesn't it? Naïve café: 价格 {n}€ 😀! "
    f"{who}'s {colour}, {thing}s: costs? The cost, euros; said."
    for n, (colour, thing, who) in enumerate(
        (colour, thing, who)
        for colour in ("red", "blue", "green", "yellow")
        for thing in ("bicycle", "keyboard", "kettle", "umbrella")
        for who in ("Anna", "Bernd", "Chloé", "Dmitri")
    )
]
WRITTEN = (
    "<|endoftext|>", "<|pad|>", "<|unk|>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    "<pad>", "</s>", "<unk>", "<s>", "<extra_id_0>", "<extra_id_99>", "<0x41>", "<0xE2>",
)  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("MODELWRIGHT_DATA")
    if not folder:
        pytest.skip("MODELWRIGHT_DATA does not name the folder with the real data")
    return Path(folder)


@pytest.fixture(scope="module")
def trained() -> dict[tuple[str, str], Tokenizer]:
    return {(k, o): train(TEXTS, k, 700, objective=o) for k in KINDS for o in OBJECTIVES}


# --- real vocabularies ---


def test_gpt2_gold(data):
    gold = json.loads((data / "tokenizers/gpt2/expected_encoded_tokens.json").read_text())
    tokenizer = Tokenizer.load(data / "tokenizers/gpt2")
    assert tokenizer.encode(gold["text"]) == gold["token_ids"]
    assert tokenizer.decode(gold["token_ids"]) == gold["text"]
    assert tokenizer.vocab == 50257
    assert tokenizer.bos == tokenizer.eos == 50256
    assert tokenizer.encode("Hello world", special=True) == [15496, 995]
    assert tokenizer.decode([15496, 995, 50256]) == "Hello world"
    assert tokenizer.decode([15496, 995, 50256], special=True) == "Hello world<|endoftext|>"


def test_bert_gold(data):
    tokenizer = Tokenizer.load(data / "tokenizers/bert-base-uncased")
    lines = (data / "tokenizers/bert-base-uncased/gold.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 1000
    encoded = tokenizer.encode_batch([row["original"] for row in rows])
    assert encoded == [row["ids"] for row in rows]
    assert (tokenizer.cls, tokenizer.sep, tokenizer.pad, tokenizer.unk, tokenizer.mask) == (
        101,
        102,
        0,
        100,
        103,
    )
    assert tokenizer.encode("a", special=True) == [101, 1037, 102]
    assert tokenizer.bos is tokenizer.eos is None


def test_t5_is_sentencepiece(data):
    """Every character of real text in three scripts, and texts made to be hard."""
    tokenizer = Tokenizer.load(data / "tokenizers/t5")
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(data / "tokenizers/t5/spiece.model"))
    texts = (data / "wikitext-2/valid.txt").read_text().split("\n")[:300]
    for language in ("de", "zh"):
        articles = json.loads((data / f"xquad/xquad.{language}.json").read_text())["data"][:8]
        texts += [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    texts += [
        " a  b ",
        "\ta\nb",
        "▁a",
        "a▁b ▁▁",
        "  ",
        "",
        "ﬁne ①",
        "e\u0301",
        "\u3000x\u00a0",
        "👩‍👧",
        *WRITTEN,
    ]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids == oracle.encode(text), text
        if tokenizer.unk not in ids and len(text) > 1:
            assert tokenizer.decode(ids) == oracle.decode(ids), text
    assert tokenizer.encode("Hello", special=True) == [8774, 1]
    assert (tokenizer.pad, tokenizer.eos, tokenizer.unk, tokenizer.bos) == (0, 1, 2, None)


def test_t5_is_transformers(data):
    tokenizer = Tokenizer.load(data / "tokenizers/t5")
    oracle = transformers.T5Tokenizer.from_pretrained(str(data / "tokenizers/t5"))
    assert tokenizer.vocab == len(oracle) == 32100
    assert tokenizer.sentinels == tuple(range(32099, 31999, -1))
    assert oracle.convert_tokens_to_ids("<extra_id_0>") == tokenizer.sentinels[0]
    for text in (data / "multi30k/val.de").read_text().split("\n")[:100]:
        ids = tokenizer.encode(text, special=True)
        assert ids == oracle.encode(text)
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


def test_stories260k_is_transformers(data):
    tokenizer = Tokenizer.load(data / "stories260k")
    oracle = transformers.AutoTokenizer.from_pretrained(str(data / "stories260k"))
    texts = (data / "tinystories-sample/train.txt").read_text().split("<|endoftext|>")[:60] + TEXTS
    for text in texts:
        ids = tokenizer.encode(text, special=True)
        assert ids == oracle.encode(text)
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)
    assert (tokenizer.vocab, tokenizer.bos, tokenizer.eos, tokenizer.unk) == (512, 1, 2, 0)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_bpe(tmp_path, prefix):
    """The model files of the first Llamas: BPE with bytes, spaces kept, a BOS before the text."""
    with (tmp_path / "tokenizer.model").open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS), model_writer=stream, model_type="bpe", vocab_size=420,
            byte_fallback=True, remove_extra_whitespaces=False, add_dummy_prefix=prefix, minloglevel=2,
            normalization_rule_name="identity", user_defined_symbols=["<tool>"],
        )  # fmt: skip
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tokenizer = Tokenizer.load(tmp_path)
    for text in [*TEXTS, "  two  spaces ", "\n\t", "漢字 yellowkeyboard", "The </s> <s>"]:
        assert tokenizer.encode(text) == oracle.encode(text), text
        assert tokenizer.decode(oracle.encode(text)) == text
    assert tokenizer.encode("red", special=True) == [1, *oracle.encode("red")]
    assert tokenizer.sentinels == ()
    assert (tokenizer.bos, tokenizer.eos, tokenizer.unk) == (1, 2, 0)


# --- loading: names and faults ---


def test_roles_come_from_the_configs_then_from_convention(trained, tmp_path):
    trained["bpe", "causal"].save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["bos_token"] == config["eos_token"] == "<|endoftext|>"

    def roles(**files: dict) -> tuple[int | None, int | None, int | None]:
        for name in ("tokenizer_config", "special_tokens_map", "config"):
            (tmp_path / f"{name}.json").unlink(missing_ok=True)
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        found = Tokenizer.load(tmp_path)
        return found.bos, found.eos, found.pad

    assert roles() == (0, 0, 1)
    assert roles(tokenizer_config={"bos_token": None, "eos_token": {"content": "<|pad|>"}}) == (None, 1, 1)
    assert roles(special_tokens_map={"eos_token": "<|pad|>"}, config={"bos_token_id": 1}) == (1, 1, 1)
    assert roles(config={"eos_token_id": [1, 0]}) == (0, 1, 1)
    assert roles(tokenizer_config={"pad_token": "[none such]"}) == (0, 0, None)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": null}')
    Tokenizer.load(tmp_path).save(tmp_path)
    assert Tokenizer.load(tmp_path).bos is None, "what was said to be none stays none"


def test_do_lower_case_is_heeded(data, tmp_path):
    vocabulary = (data / "tokenizers/bert-base-uncased/vocab.txt").read_text()
    (tmp_path / "vocab.txt").write_text(vocabulary)
    assert Tokenizer.load(tmp_path).encode("HELLO") == [7592]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert Tokenizer.load(tmp_path).encode("HELLO") == [100]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tokenizer.json": "{"}, "tokenizer.json is not a tokenizer that can be read"),
        ({"vocab.json": "[", "merges.txt": ""}, "vocab.json is not valid JSON"),
        ({"vocab.json": "[]", "merges.txt": ""}, "does not hold a vocabulary"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "a b c"}, "does not hold the merges of vocab.json"),
        ({"vocab.txt": "a\nb\n"}, "it has no \\[UNK\\]"),
        ({"spiece.model": "no model"}, "spiece.model is not a SentencePiece model"),
        ({"vocab.txt": "[UNK]", "tokenizer_config.json": "{"}, "tokenizer_config.json is not valid JSON"),
    ],
)
def test_faults_of_vocabulary_files(tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said):
        Tokenizer.load(tmp_path)


PIECES = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\nblue\n"


def test_tokens_that_were_added_later_are_read(tmp_path):
    (tmp_path / "vocab.txt").write_text(PIECES)
    (tmp_path / "added_tokens.json").write_text('{"[AGENT]": 8, "Öl-Lampe": 7, "[SEP]": 3}')
    (tmp_path / "tokenizer_config.json").write_text('{"additional_special_tokens": ["[AGENT]"]}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.vocab == 9
    assert tokenizer.encode("red Öl-Lampe") == [5, 7]
    assert {3, 8} <= tokenizer.special
    assert 7 not in tokenizer.special
    assert tokenizer.decode([5, 8, 6]) == "red blue"
    tokenizer.save(tmp_path / "new")
    assert Tokenizer.load(tmp_path / "new").encode("red Öl-Lampe") == [5, 7]


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ({"lamp": 9}, "gives 'lamp' the id 9, but after the vocabulary it has the id 7"),
        ({"red": 7}, "gives 'red' the id 7, but after the vocabulary it has the id 5"),
        ({"lamp": "7"}, "does not hold a vocabulary, token to id: 'lamp' has '7'"),
    ],
)
def test_an_added_token_keeps_its_id_or_is_refused(tmp_path, added, said):
    (tmp_path / "vocab.txt").write_text(PIECES)
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(ValueError, match=said):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_json_holds_its_added_tokens_itself(tmp_path):
    train(TEXTS, "bpe", 300).save(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"lamp": 9}')
    assert Tokenizer.load(tmp_path).vocab == 300


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_of_a_vocabulary_ends_at_a_line_break_alone(tmp_path, end):
    pieces = ["[UNK]", "a", "\u2028", "\x85", "b"]
    (tmp_path / "vocab.txt").write_bytes((end.join(pieces) + end).encode())
    inner = Tokenizer.load(tmp_path).inner
    assert [inner.token_to_id(piece) for piece in pieces] == [0, 1, 2, 3, 4]
    assert inner.get_vocab_size() == 5


def test_a_merge_may_hold_what_unicode_breaks_lines_at(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "\u2028": 1, "a\u2028": 2}))
    (tmp_path / "merges.txt").write_bytes("#version: 0.2\na \u2028\n".encode())
    assert json.loads(Tokenizer.load(tmp_path).inner.to_str())["model"]["merges"] == [["a", "\u2028"]]


def test_robertas_vocabulary_frames_a_text_as_transformers_does(tmp_path):
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    inner = train(TEXTS, "bpe", 300).inner
    pieces = [piece for piece, _ in sorted(inner.get_vocab().items(), key=lambda item: item[1])]
    plain = [piece for piece in pieces if not piece.startswith("<|")]
    ids = {piece: i for i, piece in enumerate([*special, *plain, "<mask>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    merges = [" ".join(pair) for pair in json.loads(inner.to_str())["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    ours = Tokenizer.load(tmp_path)
    theirs = transformers.RobertaTokenizer(vocab=ids, merges=[tuple(merge.split(" ")) for merge in merges])
    for text in (*TEXTS[:5], "", " A lamp,  and\n<s> more."):
        assert ours.encode(text, special=True)[1:-1] == ours.encode(text)
        if "<s>" not in text:
            assert ours.encode(text, special=True) == theirs.encode(text)
    assert ours.encode("", special=True) == [0, 2]
    assert (ours.bos, ours.pad, ours.eos, ours.unk, ours.mask) == (0, 1, 2, 3, ids["<mask>"])
    assert (ours.cls, ours.sep) == (0, 2)
    assert 0 not in ours.encode("a <s> is text")


def test_a_chat_template_in_a_file_of_its_own_is_kept(tmp_path):
    train(TEXTS, "bpe", 300).save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}, né?")
    Tokenizer.load(tmp_path).save(tmp_path / "new")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "new"))
    assert theirs.chat_template == "{{ messages[0].content }}, né?"


def test_no_vocabulary_at_all_says_what_was_looked_for(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"looked for tokenizer\.json, vocab\.json with merges\.txt, .*spiece"):
        Tokenizer.load(tmp_path)


def test_a_missing_extra_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "spiece.model").write_bytes(b"x")
    monkeypatch.setattr(vocabularies, "sentencepiece", None)
    with pytest.raises(ValueError, match=r"pip install modelwright\[sentencepiece\]"):
        Tokenizer.load(tmp_path)


# --- learning ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ValueError("line 3 has no field 'text'"), OSError(5, "Input/output error")])
def test_a_fault_of_the_texts_is_told_as_that(kind, error):
    def texts():
        yield from TEXTS[:3]
        raise error

    with pytest.raises(type(error)) as caught:
        train(texts(), kind, 700)
    assert str(caught.value) == str(error)


@pytest.mark.parametrize(("kind", "objective"), [(k, o) for k in KINDS for o in OBJECTIVES])
def test_special_tokens_follow_from_the_objective(trained, kind, objective):
    tokenizer = trained[kind, objective]
    body = tokenizer.encode("The red kettle")
    name = tokenizer.inner.id_to_token
    if objective == "causal":
        assert (name(tokenizer.eos), name(tokenizer.pad)) == ("<|endoftext|>", "<|pad|>")
        assert tokenizer.bos == tokenizer.eos
        assert tokenizer.encode("The red kettle", special=True) == [tokenizer.bos, *body]
    elif objective == "masked":
        named = (tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask)
        assert [name(i) for i in named] == ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
        assert tokenizer.encode("The red kettle", special=True) == [tokenizer.cls, *body, tokenizer.sep]
    elif objective == "denoise":
        named = (tokenizer.bos, tokenizer.pad, tokenizer.eos, tokenizer.mask)
        assert [name(i) for i in named] == ["<s>", "<pad>", "</s>", "<mask>"]
        assert tokenizer.encode("The red kettle", special=True) == [tokenizer.bos, *body, tokenizer.eos]
    else:
        assert (name(tokenizer.pad), name(tokenizer.eos)) == ("<pad>", "</s>")
        assert tokenizer.encode("The red kettle", special=True) == [*body, tokenizer.eos]
    count = 100 if objective == "span" else 0
    assert tokenizer.sentinels == tuple(range(tokenizer.vocab - 1, tokenizer.vocab - 1 - count, -1))
    assert (tokenizer.unk is None) == (kind == "bpe")
    assert tokenizer.vocab <= 700
    assert max(tokenizer.inner.get_vocab().values()) == tokenizer.vocab - 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_learnt_vocabulary_shortens_its_text(trained, kind):
    tokenizer, text = trained[kind, "causal"], " ".join(TEXTS)
    assert len(text) / len(tokenizer.encode(text)) > 2


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_digits_stand_alone(trained, kind):
    ids = trained[kind, "causal"].encode("370")
    assert [trained[kind, "causal"].decode([i]) for i in ids] == ["3", "7", "0"]


def test_the_same_texts_give_the_same_ids_in_every_process():
    """Hash tables differ from process to process, so one process cannot show it."""
    program = (
        "import hashlib, test_tokenizer as t\n"
        "for k in t.KINDS:\n"
        "    j = t.train(t.TEXTS, k, 700).inner.to_str()\n"
        "    print(hashlib.sha256(j.encode()).hexdigest())"
    )
    path = os.pathsep.join(filter(None, sys.path))
    run = [sys.executable, "-c", program]
    other = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=True)
    here = [hashlib.sha256(train(TEXTS, k, 700).inner.to_str().encode()).hexdigest() for k in KINDS]
    assert other.stdout.split() == here


def test_training_reads_its_texts_once_and_as_a_stream():
    seen = []

    def stream():
        for text in TEXTS:
            seen.append(text)
            yield text

    assert train(stream(), "bpe", 300).vocab == 300
    assert seen == TEXTS


@pytest.mark.parametrize("kind", KINDS)
def test_faults_of_training(kind):
    for texts in ([], ["", " \n"]):
        with pytest.raises(ValueError, match="there is no text to train a tokenizer on"):
            train(texts, kind, 700)
    with pytest.raises(ValueError, match=r"a vocabulary of 60 is too small: .* alone are \d+$"):
        train(TEXTS, kind, 60)


def test_the_least_vocabulary_that_is_named_is_enough():
    for kind in KINDS:
        with pytest.raises(ValueError, match="too small") as error:
            train(TEXTS, kind, 10, objective="span")
        least = int(str(error.value).split()[-1])
        tokenizer = train(TEXTS, kind, least, objective="span")
        assert tokenizer.vocab == least
        for ids in tokenizer.encode_batch(TEXTS):
            assert not (set(tokenizer._bytes) | {tokenizer.unk}) & set(ids), "every character has its own piece"
        with pytest.raises(ValueError, match="too small"):
            train(TEXTS, kind, least - 1, objective="span")


# --- a user's text is text ---


@pytest.mark.parametrize(("kind", "objective"), [(k, o) for k in KINDS for o in OBJECTIVES])
def test_special_tokens_written_in_a_text_stay_text(trained, kind, objective):
    tokenizer = trained[kind, objective]
    forbidden = tokenizer.special - {tokenizer.unk}
    for token in WRITTEN:
        for text in (token, f"red{token}kettle", f"red {token} kettle {token}", f"\n{token}\n"):
            ids = tokenizer.encode(text)
            assert not forbidden & set(ids), text
            if kind != "wordpiece":
                assert tokenizer.unk not in ids
                assert tokenizer.decode(ids) == text


def test_special_tokens_written_in_a_text_stay_text_in_loaded_vocabularies(data):
    for name in ("tokenizers/gpt2", "tokenizers/bert-base-uncased", "tokenizers/t5", "stories260k"):
        tokenizer = Tokenizer.load(data / name)
        for token in WRITTEN:
            ids = tokenizer.encode(f"a {token} b{token}c")
            assert not (tokenizer.special - {tokenizer.unk}) & set(ids), (name, token)


# --- round trips ---

unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
mixed = st.lists(st.one_of(unicode, st.sampled_from([*WRITTEN, "▁", " ", "  ", "\n", "The red ", "️😀"]))).map("".join)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@settings(max_examples=300, deadline=None)
@given(text=mixed)
def test_encoding_and_decoding_gives_any_text_back(trained, kind, text):
    for objective in OBJECTIVES:
        tokenizer = trained[kind, objective]
        assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(text=mixed)
def test_pieces_of_a_long_text_can_be_joined(trained, text):
    half = len(text) // 2
    for kind in ("bpe", "unigram"):
        tokenizer = trained[kind, "causal"]
        assert tokenizer.decode(tokenizer.encode(text[:half]) + tokenizer.encode(text[half:])) == text


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.text(st.sampled_from("abcdeéüTBß7价"), min_size=1, max_size=8), max_size=8))
def test_word_pieces_round_trip_on_their_normal_form(trained, words):
    tokenizer = trained["wordpiece", "masked"]
    normal = tokenizer.inner.normalizer.normalize_str(" ".join(words))
    normal = " ".join(word for word, _ in tokenizer.inner.pre_tokenizer.pre_tokenize_str(normal))
    ids = tokenizer.encode(" ".join(words))
    if tokenizer.unk not in ids:
        assert tokenizer.decode(ids) == normal


def test_a_batch_is_its_rows(trained):
    for tokenizer in trained.values():
        for special in (False, True):
            batch = tokenizer.encode_batch(TEXTS, special=special)
            assert batch == [tokenizer.encode(text, special=special) for text in TEXTS]


def test_one_wrong_byte_does_not_spoil_the_characters_beside_it(trained):
    tokenizer = trained["unigram", "causal"]
    piece = {byte: tokenizer.inner.token_to_id(f"<0x{byte:02X}>") for byte in range(256)}
    ids = [piece[byte] for byte in "漢".encode() + b"\xff" + "字".encode() + b"\xe6\xbc"]
    assert tokenizer.decode(ids) == "漢\ufffd字\ufffd"
    assert tokenizer.decode([*ids[:1], tokenizer.eos, *ids[1:3]]) == "漢"
    assert tokenizer.decode([*ids[:1], tokenizer.eos, *ids[1:3]], special=True) == "\ufffd<|endoftext|>\ufffd\ufffd"
    assert tokenizer.decode([*ids[:1], tokenizer.vocab + 1, *ids[1:3]]) == "漢", "an id that there is not is no text"


# --- decoding as a stream ---


def streamed(tokenizer: Tokenizer, ids: list[int], special: bool) -> str:
    decoder = Decoder(tokenizer, special=special)
    parts = [decoder.push(i) for i in ids]
    for i, part in enumerate(parts[:-1]):
        assert "\ufffd" not in part or "\ufffd" in tokenizer.decode(ids[: i + 1], special=special)
    return "".join(parts) + decoder.finish()


@pytest.fixture(scope="module", params=[*KINDS, "stories260k", "tokenizers/t5", "tokenizers/gpt2"])
def spoken(request, trained) -> Tokenizer:
    if request.param in KINDS:
        return trained[request.param, "span"]
    return Tokenizer.load(request.getfixturevalue("data") / request.param)


@settings(max_examples=150, deadline=None)
@given(draws=st.lists(st.integers(0, 1 << 16), max_size=60), low=st.booleans(), special=st.booleans())
def test_a_stream_says_what_decoding_at_once_says(spoken, draws, low, special):
    """Any ids at all: half characters, wrong bytes, special tokens, ids beyond the vocabulary."""
    ids = [draw % (300 if low else spoken.vocab + 2) for draw in draws]
    assert streamed(spoken, ids, special) == spoken.decode(ids, special=special)


@settings(max_examples=60, deadline=None)
@given(text=mixed)
def test_a_stream_of_a_text(spoken, text):
    ids = spoken.encode(text, special=True)
    assert streamed(spoken, ids, False) == spoken.decode(ids)


def test_a_stream_shows_characters_when_they_are_whole_and_not_before(trained):
    tokenizer = trained["bpe", "causal"]
    ids = tokenizer.encode("a𝄞b")
    assert len(ids) == 6
    decoder = Decoder(tokenizer)
    assert [decoder.push(i) for i in ids] == ["a", "", "", "", "𝄞", "b"]
    assert decoder.finish() == ""
    assert [decoder.push(ids[1]), decoder.finish(), decoder.finish()] == ["", "\ufffd", ""]


def test_a_stream_looks_at_few_ids_however_long_it_is(trained):
    for kind in KINDS:
        tokenizer, decoder = trained[kind, "causal"], Decoder(trained[kind, "causal"])
        for i in [tokenizer.pad] * 50 + list(range(3, tokenizer.vocab)) + [200] * 50:
            decoder.push(i)
            assert len(decoder._window) <= Decoder.MOST


# --- saving ---


@pytest.mark.parametrize("model", [None, "gpt2", "llama", "bert", "t5"])
def test_transformers_opens_what_is_saved(trained, tmp_path, model):
    """With a model's config.json beside it too, which transformers may take its class of tokenizer from."""
    for (kind, objective), tokenizer in trained.items():
        folder = tmp_path / kind / objective
        tokenizer.save(folder)
        if model:
            (folder / "config.json").write_text(json.dumps({"model_type": model}))
        opened = transformers.AutoTokenizer.from_pretrained(str(folder))
        again = Tokenizer.load(folder)
        for text in [*TEXTS[:10], "  The\n\n red  Kettle 漢字 ▁ ", ""]:
            ids = tokenizer.encode(text, special=True)
            assert opened.encode(text) == again.encode(text, special=True) == ids
            assert opened.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
        assert (opened.eos_token_id, opened.pad_token_id) == (tokenizer.eos, tokenizer.pad)
        assert opened.mask_token_id == tokenizer.mask
        assert again.roles == tokenizer.roles
        assert again.sentinels == tokenizer.sentinels
        assert again.inner.to_str() == tokenizer.inner.to_str()


@pytest.mark.parametrize("name", ["tokenizers/gpt2", "tokenizers/bert-base-uncased", "tokenizers/t5", "stories260k"])
def test_loaded_vocabularies_are_saved_as_they_are(data, tmp_path, name):
    tokenizer = Tokenizer.load(data / name)
    tokenizer.kept["chat_template"] = "{{ messages }}"
    tokenizer.save(tmp_path)
    opened = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for text in TEXTS:
        assert opened.encode(text) == tokenizer.encode(text, special=True)
    assert opened.chat_template == "{{ messages }}"
    again = Tokenizer.load(tmp_path)
    assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert (again.roles, again.kept, again.sentinels) == (
        tokenizer.roles,
        tokenizer.kept,
        tokenizer.sentinels,
    )
    again.save(tmp_path / "again")
    assert (tmp_path / "again/tokenizer_config.json").read_text() == (tmp_path / "tokenizer_config.json").read_text()


def test_saving_leaves_other_files_alone_and_nothing_half_done(trained, tmp_path, monkeypatch):
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = trained["bpe", "causal"]
    tokenizer.save(tmp_path)
    names = ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    before = (tmp_path / "tokenizer.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trained["unigram", "causal"].save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == names
