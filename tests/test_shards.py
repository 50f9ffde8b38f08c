"""Token shards: the same ids as the tokenizer's own, written whole or not at all, refused when damaged."""

import functools
import itertools
import json
import operator
import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from modelwright.data import encode, shards
from modelwright.data.documents import Document
from modelwright.data.loader import Loader
from modelwright.data.pack import packing
from modelwright.data.tokenizer import Tokenizer, train

WORDS = [
    "the",
    "a",
    "of",
    "reply",
    "Order",
    "order's",
    "number",
    "4711",
    "red,",
    "blue.",
    "Lyon",
    "naïve",
    "ΟΔΟΣ",
    "東京",
    "don't",
    "(see",
    "--now)",
    "x",
]


def prose(words, seed=0):
    draw = random.Random(seed)
    return "".join(draw.choice(WORDS) + draw.choice([" ", " ", " ", " ", "\n", "  "]) for _ in range(words))


class Shell:
    """A `tokenizers.Tokenizer` behind the interface that shards ask for."""

    def __init__(self, raw, **ids):
        self.raw = raw
        self.raw.encode_special_tokens = True
        self.vocab = raw.get_vocab_size()
        self.bos = self.eos = self.pad = self.unk = self.mask = None
        self.sentinels = ()
        vars(self).update(ids)

    def encode(self, text, *, special=False):
        return self.raw.encode(text, add_special_tokens=special).ids

    def save(self, directory):
        self.raw.save(str(Path(directory) / "tokenizer.json"))


def gpt(bos=False):
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    raw.train_from_iterator([prose(2000)], trainer)
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Shell(raw, eos=0, pad=0, bos=1 if bos else None)


def bert():
    raw = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw.train_from_iterator(
        [prose(2000)], trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return Shell(raw, pad=0, unk=1, mask=4)


def unigram():
    raw = tokenizers.Tokenizer(models.Unigram())
    raw.normalizer = normalizers.NFKC()
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{n}>" for n in range(40))]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    raw.train_from_iterator([prose(2000)], trainer)
    return Shell(raw, pad=0, eos=1, unk=2, sentinels=tuple(range(3, 43)))


def llama():
    split = pre_tokenizers.Split(tokenizers.Regex(max(encode.PATTERNS, key=len)), "isolated")
    shell = gpt()
    shell.raw.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return shell


def metaspace_bpe():
    shell = gpt()
    shell.raw.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    shell.raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return shell


def prefixed():
    shell = gpt()
    shell.raw.normalizer = normalizers.NFKC()
    shell.raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return shell


def trained_bpe():
    return Shell(train([prose(2000)], "bpe", 400).inner, eos=0)


def trained_wordpiece():
    return Shell(train([prose(2000)], "wordpiece", 200, objective="masked").inner)


def trained_unigram():
    return Shell(train([prose(2000)], "unigram", 700, objective="span").inner)


MAKERS = [gpt, bert, unigram, llama, metaspace_bpe, prefixed]
MAKERS += [trained_bpe, trained_wordpiece, trained_unigram]
KINDS = {made.__name__: made() for made in MAKERS}


def documents(count, seed=0, words=40):
    return [Document(prose(words + n % 7, seed + n), str(n)) for n in range(count)]


@pytest.fixture(scope="module")
def tokenizer():
    return KINDS["gpt"]


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def ids_of(written):
    return next(read.tolist() for part in [written.whole()] for read in [part.read(0, part.tokens)[0]])


# --- the ids --------------------------------------------------------------------------------------

SPACES = st.sampled_from([*list(" \n\t\r  \u3000\x1c\x85\u200b\xad´ ﷺ\u0600"), "  ", " \n", "\n ", "   "])
LETTERS = st.sampled_from([*list("aZé1.,'([■Σς東́\x00�▁Ġ𝔘"), "'s", "'LL", "</s>", "[MASK]", "<|endoftext|>", "<0x41>"])
TEXTS = st.lists(st.one_of(LETTERS, SPACES, st.characters(exclude_categories=["Cs"])), max_size=30).map("".join)


def by_words(shell):
    encoder = encode.Encoder(shell.raw.to_str(), encode.Settings("<u2"))
    assert encoder.texts == encoder._by_words, "this tokenizer was to be encoded by words"
    return encoder


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_by_words_is_exact(kind, text):
    encoder = ENCODERS[kind]
    found = encoder([encode.Piece(text, len(text.encode()))])
    assert np.frombuffer(found.tokens, "<u2").tolist() == KINDS[kind].encode(text)


ENCODERS = {kind: by_words(shell) for kind, shell in KINDS.items()}


def test_by_words_when_the_memory_is_full(monkeypatch, tokenizer):
    monkeypatch.setattr(encode, "REMEMBERED", 5)
    monkeypatch.setattr(encode, "LONGEST", 4)
    encoder, text = by_words(tokenizer), prose(500)
    found = encoder([encode.Piece(text, 0)] * 2)
    assert np.frombuffer(found.tokens, "<u2").tolist() == tokenizer.encode(text) * 2
    assert max(len(encoder.inner), len(encoder.first)) <= 5


def changed(shell, **parts):
    raw = tokenizers.Tokenizer.from_str(shell.raw.to_str())
    for name, part in parts.items():
        setattr(raw, name, part)
    return raw


def added(shell, *tokens):
    raw = changed(shell)
    raw.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in tokens])
    return raw


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda g: changed(g, pre_tokenizer=pre_tokenizers.ByteLevel(False, use_regex=False)), "of the"),
        (lambda g: changed(g, normalizer=normalizers.Prepend("▁")), "of the"),
        (lambda g: changed(g, normalizer=normalizers.Strip()), "of the"),
        (lambda g: changed(g, normalizer=normalizers.Replace("f t", "x")), "of the"),
        (lambda g: changed(KINDS["bert"], normalizer=normalizers.Replace("f t", "x")), "of the"),
        (
            lambda g: changed(KINDS["bert"], normalizer=normalizers.Replace(tokenizers.Regex(r"f\s"), "")),
            "of t",
        ),
        (lambda g: added(g, "f t"), "of the"),
    ],
)
def test_what_cannot_be_cut_at_spaces_is_encoded_whole(tokenizer, make, text):
    raw = make(tokenizer)
    encoder = encode.Encoder(raw.to_str(), encode.Settings("<u2"))
    found = encoder([encode.Piece(text, 0)])
    assert np.frombuffer(found.tokens, "<u2").tolist() == raw.encode(text, add_special_tokens=False).ids
    assert encoder.texts == encoder._plain


@pytest.mark.skipif("MODELWRIGHT_DATA" not in os.environ, reason="MODELWRIGHT_DATA names no folder")
@pytest.mark.parametrize(("name", "objective"), [("gpt2", "causal"), ("bert-base-uncased", "masked"), ("t5", "span")])
def test_real_vocabularies_on_real_text(tmp_path, name, objective):
    data = Path(os.environ["MODELWRIGHT_DATA"])
    tokenizer = Tokenizer.load(data / "tokenizers" / name)
    text = (data / "wikitext-2" / "valid.txt").read_text("utf-8")[:100_000]
    written = shards.write([Document(text, "0")], tokenizer, tmp_path / "s", objective=objective)
    frame = {"causal": ([], [50256]), "masked": ([101], [102]), "span": ([], [])}[objective]
    assert ids_of(written) == frame[0] + tokenizer.encode(text) + frame[1]
    batch = next(iter(Loader(written.whole(), packing(objective, tokenizer, 128), batch=2, prefetch=0)))
    assert batch.weight.sum() > 0


def test_documents_are_framed(tmp_path):
    for kind, objective, frame in (
        (gpt(bos=True), "causal", ([1], [0])),
        (bert(), "masked", ([2], [3])),
        (unigram(), "span", ([], [])),
    ):
        texts = ["red order", "of Lyon"]
        stream = [Document(text, text) for text in texts]
        written = shards.write(stream, kind, tmp_path / objective, objective=objective)
        expected = [frame[0] + kind.encode(text) + frame[1] for text in texts]
        assert ids_of(written) == functools.reduce(operator.iadd, expected, [])
        assert written.starts(0).tolist() == [0, len(expected[0])]


def test_user_text_stays_text(tmp_path, tokenizer):
    written = shards.write([Document("a <|endoftext|> b", "0")], tokenizer, tmp_path / "s")
    assert ids_of(written).count(0) == 1
    assert ids_of(written)[-1] == 0


def test_pieces_of_a_document_are_joined(tmp_path, tokenizer):
    on = {"continues": True}
    stream = [
        Document("the red", "0"),
        Document(" order", "1", on),
        Document("", "2", on),
        Document("Lyon", "3"),
    ]
    written = shards.write(stream, tokenizer, tmp_path / "s")
    first = tokenizer.encode("the red") + tokenizer.encode(" order") + [0]
    assert ids_of(written) == [*first, *tokenizer.encode("Lyon"), 0]
    assert written.starts(0).tolist() == [0, len(first)]
    assert written.byte_starts(0).tolist() == [0, 13]
    assert (written.documents, written.bytes) == (2, 17)


def test_documents_without_a_token_are_left_out(tmp_path, tokenizer):
    written = shards.write([Document("", "0"), Document("the", "1"), Document("", "2")], tokenizer, tmp_path / "s")
    assert (written.documents, ids_of(written)) == (1, [*tokenizer.encode("the"), 0])


def test_wide_vocabularies_take_four_bytes(tmp_path):
    vocab = {f"w{n}": n for n in range(70_000)}
    raw = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    written = shards.write([Document("w69999 w1", "0")], Shell(raw, eos=5), tmp_path / "s")
    assert (written.dtype, ids_of(written)) == (np.dtype("<u4"), [69999, 1, 5])


# --- writing --------------------------------------------------------------------------------------


def test_the_result_does_not_depend_on_processes(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(shards, "BATCH", 300)
    seen = []
    for processes in (1, 2, 3):
        target = tmp_path / str(processes)
        progress = (lambda *done: seen.append(done)) if processes == 2 else None
        shards.write(documents(60), tokenizer, target, processes=processes, shard_tokens=900, progress=progress)
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "3")
    written = shards.Shards.open(tmp_path / "1")
    assert len(written.sizes) > 3
    assert ids_of(written) == functools.reduce(
        operator.iadd, ([*tokenizer.encode(d.text), 0] for d in documents(60)), []
    )
    assert seen[-1] == (60, sum(len(d.text.encode()) for d in documents(60))) == (written.documents, written.bytes)
    assert seen == sorted(seen)


def test_shards_are_used_again_only_for_the_same(tmp_path, tokenizer):
    target, source = tmp_path / "s", "1f"
    first = shards.write(documents(5), tokenizer, target, source=source)
    before = content(target)

    def untouched():
        raise AssertionError("the text was read again")
        yield

    again = shards.write(untouched(), tokenizer, target, source=source)
    assert (ids_of(again), content(target)) == (ids_of(first), before)
    with pytest.raises(ValueError, match="another text"):
        shards.write(documents(5), tokenizer, target, source="2e")
    with pytest.raises(ValueError, match="another tokenizer"):
        shards.write(documents(5), KINDS["unigram"], target, source=source)
    with pytest.raises(ValueError, match="another objective"):
        shards.write(documents(5), tokenizer, target, source=source, objective="span")
    with pytest.raises(FileExistsError, match="already holds token shards"):
        shards.write(documents(5), tokenizer, target)
    assert content(target) == before


def test_a_directory_of_something_else_is_left_alone(tmp_path, tokenizer):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not token shards"):
        shards.write(documents(5), tokenizer, tmp_path, source="x")
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_an_error_on_the_way_leaves_nothing(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(shards, "BATCH", 300)

    def breaks():
        yield from documents(40)
        raise OSError("the disk is gone")

    for processes in (1, 2):
        with pytest.raises(OSError, match="the disk is gone"):
            shards.write(breaks(), tokenizer, tmp_path / "s", processes=processes, shard_tokens=200)
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("stream", [[], [Document("", "0")]])
def test_no_text_is_said(tmp_path, tokenizer, stream):
    with pytest.raises(ValueError, match="empty"):
        shards.write(stream, tokenizer, tmp_path / "s")
    assert os.listdir(tmp_path) == []


def test_half_a_character_is_named(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="character 2 of document x:3 is half a surrogate"):
        shards.write([Document("ab\ud800", "x:3")], tokenizer, tmp_path / "s")


def test_a_process_that_dies_is_said(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(shards, "BATCH", 300)
    monkeypatch.setattr(encode, "_command", lambda *_: [sys.executable, "-c", "raise SystemExit(7)"])
    with pytest.raises(RuntimeError, match="exit code 7"):
        shards.write(documents(60), tokenizer, tmp_path / "s", processes=2)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_killed_while_writing(tmp_path, tokenizer):
    """A write killed at any moment leaves no directory of that name, and no process."""
    script = """
        import sys, time
        from modelwright.data import shards
        from modelwright.data.documents import Document
        from test_shards import KINDS, prose
        shards.BATCH = 300
        def slowly():
            for n in range(10**6):
                print(n, flush=True)
                yield Document(prose(40, n), str(n))
        shards.write(slowly(), KINDS["gpt"], sys.argv[1], processes=2, shard_tokens=500)
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as run:
        for _ in range(100):
            run.stdout.readline()
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        started = children.read_text().split() if children.exists() else []
        run.kill()
    assert not (tmp_path / "s").exists()
    assert len(list(tmp_path.glob(".s.writing-*"))) == 1
    if children.exists() or started:
        assert len(started) == 2
    for _ in range(200):
        if not any(Path(f"/proc/{child}").exists() for child in started):
            break
        time.sleep(0.05)
    else:
        pytest.fail("the tokenising processes outlived their parent")
    left = next(tmp_path.glob(".s.writing-*"))
    os.utime(left, (0, 0))  # long ago
    shards.write(documents(5), tokenizer, tmp_path / "s")
    assert os.listdir(tmp_path) == ["s"]


# --- reading --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory, tokenizer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BATCH", 300)
        return shards.write(documents(60), tokenizer, tmp_path_factory.mktemp("x") / "s", shard_tokens=900)


@pytest.fixture
def written(original, tmp_path):
    return shards.Shards.open(shutil.copytree(original.directory, tmp_path / "s"))


def test_shards_go_into_an_empty_directory_and_follow_the_umask(tmp_path):
    (tmp_path / "s").mkdir(mode=0o700)
    before = os.umask(0o027)
    try:
        shards.write(documents(5), gpt(), tmp_path / "s")
    finally:
        os.umask(before)
    assert shards.Shards.open(tmp_path / "s").documents == 5
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "s").iterdir()} == {0o640}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_closed_shard_lets_go_of_its_starts(tmp_path):
    shard = shards._Shard(tmp_path, 0)
    pieces = [encode.Piece("a", 1, True, True) for _ in range(3)]
    shard.add(pieces, encode.Encoded(np.arange(3, dtype="<u2").tobytes(), np.ones(3, np.int64)), np.dtype("<u2"))
    shard.close()
    assert not len(shard.starts) + len(shard.byte_starts)
    assert shard.described()["documents"] == 3
    assert np.fromfile(shard.paths[1], "<i8").tolist() == [0, 1, 2, 0, 1, 2]


def damages(path):
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    yield whole[:-1], "instead of|not as written"
    yield b"", "instead of|not as written"
    yield bytes(flipped), "not as written"
    yield bytes(len(whole)), "not as written"


def test_every_damaged_file_is_refused_by_name(written):
    for path in sorted(written.directory.iterdir()):
        whole = path.read_bytes()
        for damaged, words in damages(path):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=words) as error:
                shards.Shards.open(written.directory)
            assert path.name in str(error.value)
        path.unlink()
        with pytest.raises((ValueError, FileNotFoundError), match=path.name):
            shards.Shards.open(written.directory)
        path.write_bytes(whole)
    assert shards.Shards.open(written.directory).tokens == written.tokens


def test_every_flipped_bit_of_the_index_is_seen(written):
    path = written.directory / "index.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        try:
            opened = shards.Shards.open(written.directory)
        except (ValueError, FileNotFoundError):
            continue
        assert opened.index == json.loads(whole)  # white space


def test_a_shard_that_shrinks_later_is_named(written):
    path = written.directory / "tokens-00001.bin"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"tokens-00001\.bin has become shorter"):
        written.whole().read(0, written.tokens)


def test_no_shards_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no token shards"):
        shards.Shards.open(tmp_path)


def test_windows_show_where_documents_begin(written, tokenizer):
    part = written.whole()
    expected = [[*tokenizer.encode(d.text), 0] for d in documents(60)]
    tokens = functools.reduce(operator.iadd, expected, [])
    first = functools.reduce(operator.iadd, ([True] + [False] * (len(one) - 1) for one in expected), [])
    assert np.concatenate(list(part.starts())).tolist() == np.flatnonzero(first).tolist()
    for start, stop in [(0, len(tokens)), (5, 6), (800, 1000), (890, 2100), (len(tokens) - 3, len(tokens))]:
        found = part.read(start, stop)
        assert found[0].tolist() == tokens[start:stop]
        assert found[1].tolist() == first[start:stop]
    assert (part.documents, part.bytes) == (60, written.bytes)


@pytest.mark.parametrize(("share", "seed"), [(0.1, 0), (0.1, 1), (0.3, 0), (0.5, 3), (0.02, 5)])
def test_split_by_whole_documents(written, tokenizer, share, seed):
    def texts(part):
        starts = [*np.concatenate(list(part.starts())).tolist(), part.tokens]
        tokens = part.read(0, part.tokens)[0].tolist()
        return [tuple(tokens[a:b]) for a, b in itertools.pairwise(starts)]

    train, held = written.split(share, seed)
    expected = [(*tokenizer.encode(d.text), 0) for d in documents(60)]
    assert sorted(texts(train) + texts(held)) == sorted(expected)
    assert held.tokens == pytest.approx(share * written.tokens, abs=120)
    assert train.tokens + held.tokens == written.tokens
    assert train.bytes + held.bytes == written.bytes
    assert held.bytes == sum(len(d.text.encode()) for d, ids in zip(documents(60), expected, strict=True)
                             if ids in texts(held))  # fmt: skip
    again = written.split(share, seed)[1]
    assert again.runs == held.runs
    assert written.split(share, seed + 1)[1].runs != held.runs


def test_split_of_a_single_document_takes_its_end(tmp_path, tokenizer):
    written = shards.write([Document(prose(500), "0")], tokenizer, tmp_path / "s")
    train, held = written.split(0.1)
    tokens = ids_of(written)
    cut = round(0.9 * len(tokens))
    assert train.read(0, train.tokens)[0].tolist() == tokens[:cut]
    assert held.read(0, held.tokens)[0].tolist() == tokens[cut:]
    assert held.read(0, 3)[1].tolist() == [True, False, False]
    assert held.bytes == pytest.approx(0.1 * written.bytes, rel=0.01)
    assert train.bytes + held.bytes == pytest.approx(written.bytes)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_shares_that_are_none(written, share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        written.split(share)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path, tokenizer):
    """Writing 24 MB of text takes no more memory than writing 6 MB, but for what is kept by document."""
    script = """
        import resource, sys
        from modelwright.data import shards
        from modelwright.data.documents import Document
        from test_shards import KINDS, prose
        text = prose(8000)
        def stream(megabytes):
            for n in range(megabytes * 10**6 // len(text)):
                yield Document(text, str(n))
        peaks = []
        for megabytes in (6, 24):
            shards.write(stream(megabytes), KINDS["gpt"], sys.argv[1] + str(megabytes), processes=1)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        print(peaks[1] - peaks[0])
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "s")]
    grown = subprocess.run(command, capture_output=True, env=env, check=True, text=True).stdout
    assert int(grown) < 6
