"""`modelwright tokenizer`: what it writes, what it reports, and what it refuses."""

import json
import os
from pathlib import Path

import pytest
import transformers

from modelwright.data import desk
from modelwright.data.documents import fingerprint
from modelwright.data.tokenizer import Tokenizer, train
from modelwright.recipes.tokenizer import MOST, SMALL, Held, main, may_write, publish

SENTENCES = [
    f"The {colour} {thing} waits for the {role}, said {who}. "
    for colour in ("red", "blue", "green")
    for thing in ("kettle", "bicycle", "lamp")
    for role in ("clerk", "agent")
    for who in ("Anna", "Bernd", "Chloé")
]


@pytest.fixture
def corpus(tmp_path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("<|endoftext|>\n".join(" ".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(0, 54, 3)))
    return path


def reported(capsys, *args: object) -> dict:
    assert main([*map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
@pytest.mark.parametrize("objective", ["causal", "masked", "span", "denoise"])
def test_it_writes_what_it_reports(corpus, tmp_path, capsys, kind, objective):
    out = tmp_path / "made" / "tokenizer"
    report = reported(capsys, corpus, "--kind", kind, "--objective", objective, "--vocab", 500, "--out", out)
    tokenizer = Tokenizer.load(out)
    assert (report["kind"], report["objective"], report["vocabulary"]) == (kind, objective, tokenizer.vocab)
    assert report["unknown"] == 0
    assert report["held_out"]
    assert report["longest"] == sorted(report["longest"], key=lambda token: (-len(token), token))
    record = json.loads((out / "modelwright.json").read_text())
    assert record["report"] == report
    assert record["data"] == f"{fingerprint([str(corpus)])}:text:<|endoftext|>"
    assert record["settings"]["kind"] == kind
    assert transformers.AutoTokenizer.from_pretrained(str(out)).encode("red") == tokenizer.encode("red", special=True)
    assert sorted(path.name for path in out.parent.iterdir()) == ["tokenizer"]


def test_the_measures_are_right(tmp_path, capsys):
    """All of a small text is measured on: 40 times 13 bytes in 2 words, by a vocabulary of the bytes alone."""
    (tmp_path / "a.jsonl").write_text('{"said": "aé bcdefghi "}\n' * 40)
    out = ["--column", "said", "--vocab", 258, "--out", tmp_path / "out"]
    report = reported(capsys, tmp_path / "a.jsonl", *out)
    assert report["vocabulary"] == 258
    assert report["bytes_per_token"] == 1.0
    assert report["fertility"] == 6.5
    assert report["measured_on_bytes"] == 40 * 13
    assert not report["held_out"]


def test_the_desk(tmp_path, capsys):
    flags = ["--seed", 3, "--vocab", 400, "--out", tmp_path / "out"]
    report = reported(capsys, "desk:60", *flags)
    held = Held()
    texts = (document.text for document in desk.documents(3, "train", count=60))
    expected = train(held.back(texts), "bpe", 400)
    assert Tokenizer.load(tmp_path / "out").inner.to_str() == expected.inner.to_str()
    assert report["measured_on_bytes"] == sum(len(text.encode()) for text in held.texts)


def test_a_table_for_people_and_a_dry_run(corpus, tmp_path, capsys):
    assert main([str(corpus), "--vocab", "300", "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    assert str(corpus.stat().st_size) in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main([str(corpus), "--vocab", "300", "--output", str(tmp_path / "out")]) == 0
    assert "bytes per token" in capsys.readouterr().out


@pytest.mark.parametrize("lengths", [[100] * 500, [30_000], [5_000, 40_000], [40_000, 10], [900_000] * 30])
def test_the_tail_is_held_back_and_nothing_is_lost(lengths):
    texts = [(f"word{i} " * length)[:length] for i, length in enumerate(lengths)]
    held = Held()
    learnt = list(held.back(iter(texts)))
    assert "".join(learnt + held.texts) == "".join(texts)
    assert held.unseen
    budget = min(MOST, sum(lengths) // 20)
    assert budget - 1 <= sum(map(len, held.texts)) <= budget + 20


def test_of_very_little_text_all_is_learnt_from():
    held, texts = Held(), ["some words ", "and some more"]
    assert list(held.back(texts)) == texts
    assert not held.unseen
    assert held.texts == texts
    assert sum(map(len, texts)) < SMALL


# --- faults ---


def test_what_is_there_is_not_overwritten_unasked(corpus, tmp_path, capsys):
    args = [corpus, "--out", tmp_path / "out", "--vocab"]
    reported(capsys, *args, 300)
    with pytest.raises(FileExistsError, match="name another --output, or say --overwrite"):
        main([*map(str, args), "320"])
    assert reported(capsys, *args, 320, "--overwrite")["vocabulary"] == 320
    assert Tokenizer.load(tmp_path / "out").vocab == 320
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.txt", "out"]


def test_a_directory_of_other_things_is_never_overwritten(corpus, tmp_path):
    with pytest.raises(FileExistsError, match="holds more than a tokenizer"):
        main([str(corpus), "--out", str(tmp_path), "--overwrite"])
    assert corpus.exists()


@pytest.mark.parametrize(
    ("args", "kind", "said"),
    [
        (["corpus.tx"], FileNotFoundError, "did you mean .*corpus.txt"),
        (["corpus.txt", "--vocab", "100"], ValueError, "a vocabulary of 100 is too small"),
        (["corpus.txt", "--vocb", "100"], ValueError, "perhaps you meant --vocab"),
        (["corpus.txt", "--kind", "wordpice"], ValueError, "invalid choice|wordpice"),
        (["empty.txt"], ValueError, "holds no text"),
    ],
)
def test_the_users_mistakes_are_one_sentence_and_leave_nothing(corpus, tmp_path, monkeypatch, args, kind, said):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    with pytest.raises(kind, match=said) as error:
        main([*args, "--out", "out"])
    assert "\n" not in str(error.value)
    assert sorted(os.listdir()) == ["corpus.txt", "empty.txt"]


def test_a_failing_rename_puts_back_what_was_there(tmp_path, monkeypatch):
    tokenizer, out = train(SENTENCES, "bpe", 300), tmp_path / "out"
    publish(tokenizer, {"first": True}, out)
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if target == out and not path.name.endswith("-old"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        publish(tokenizer, {"first": False}, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((out / "modelwright.json").read_text()) == {"first": True}


@pytest.mark.parametrize("before", [False, True])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, before):
    tokenizer, out = train(SENTENCES, "bpe", 300), tmp_path / "out"
    if before:
        publish(tokenizer, {"first": True}, out)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(tokenizer, {"first": False}, out)
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if before else [])
    assert not before or json.loads((out / "modelwright.json").read_text()) == {"first": True}


def test_only_a_tokenizers_own_files_are_overwritten(tmp_path):
    """A model's directory has a tokenizer.json too."""
    tokenizer, out = train(SENTENCES, "bpe", 300), tmp_path / "out"
    publish(tokenizer, {}, out)
    may_write(out, True)
    (out / "model.safetensors").write_bytes(b"weeks of training")
    with pytest.raises(
        FileExistsError, match=r"holds more than a tokenizer \(model.safetensors\): name another --output"
    ):
        may_write(out, True)
    with pytest.raises(FileExistsError, match="holds more than a tokenizer"):
        may_write(out / "model.safetensors", True)


def test_an_empty_directory_and_the_one_we_stand_in(corpus, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([str(corpus), "--vocab", "300", "--output", ".", "--json"]) == 0
    assert Tokenizer.load(tmp_path / "here").vocab == 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.txt", "here"]


def test_a_folder_named_desk_is_not_read_for_the_desk(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "desk").mkdir()
    assert main(["desk", "--vocab", "300", "--output", "out", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] is None
    assert main(["desk:40", "--vocab", "300", "--output", "out", "--json"]) == 0
    assert json.loads((tmp_path / "out" / "modelwright.json").read_text())["data"] == "desk:40:0"


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        publish(train(SENTENCES, "bpe", 300), {}, tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}
