"""The command `modelwright generate`: what it prints, and what it says of a mistake."""

import io
import json
import os
from pathlib import Path

import pytest
import torch

from modelwright.data import tokenizer as tokenizers
from modelwright.hub.open import LanguageModel, load, save
from modelwright.infer.complete import complete, generate
from modelwright.infer.fill import fill_mask
from modelwright.model.transformer import Config, Rope, Transformer, initialise
from modelwright.recipes.generate import main

TEXTS = ["the cat sat on the mat, the dog did not; a naïve 😀 smile and the end of it all"] * 3
SHAPE = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 4, "head": 8, "ffn": 64, "context": 48}


def saved(directory: Path, kind: str, objective: str, **more: object) -> Path:
    words = tokenizers.train(TEXTS, kind, 320, objective=objective)
    model = initialise(Transformer(Config(vocab=words.vocab, **SHAPE, **more)), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0 if p.dim() > 1 else 1.0)
    save(LanguageModel(model, words, {}), directory)
    return directory


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> str:
    return str(saved(tmp_path_factory.mktemp("models") / "decoder", "bpe", "causal", rope=Rope()))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    bert = {"causal": False, "pre_norm": False, "norm": "layer", "act": "gelu", "gated": False, "attn_bias": True,
            "ffn_bias": True, "learned": True, "types": 2, "embed_norm": True, "final_norm": False,
            "head_transform": True, "head_bias": True}  # fmt: skip
    return str(saved(tmp_path_factory.mktemp("models") / "encoder", "wordpiece", "masked", **bert))


def test_one_prompt_is_greedy_and_streamed(decoder, capsys):
    assert main([decoder, "the cat", "--max-new", "9"]) == 0
    streamed = capsys.readouterr().out
    assert streamed == generate(load(decoder), "the cat", max_new=9, temperature=0) + "\n"
    assert main([decoder, "the cat", "--max-new", "9", "--no-stream"]) == 0
    assert capsys.readouterr().out == "--- 1: the cat\n" + streamed


def test_samples_as_json(decoder, capsys):
    flags = ["--max-new", "6", "--temperature", "0.8", "--top-k", "40", "--n", "2", "--seed", "5", "--json"]
    assert main([decoder, "the cat", *flags]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = complete(load(decoder), ["the cat"], max_new=6, temperature=0.8, top_k=40, n=2, seed=5)
    assert [(line["text"], line["tokens"], line["finish"]) for line in lines] == [
        (done.text, done.tokens, done.finish) for done in expected
    ]
    assert [(line["prompt"], line["sample"], line["seed"]) for line in lines] == [("the cat", 0, 5), ("the cat", 1, 5)]


def test_a_seed_that_was_told_draws_the_same_again(decoder, capsys):
    assert main([decoder, "the cat", "--temperature", "1", "--max-new", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main([decoder, "the cat", "--temperature", "1", "--max-new", "8", "--seed", str(told["seed"])]) == 0
    assert capsys.readouterr().out == told["text"] + "\n"


def test_prompts_of_a_file_and_of_standard_input(decoder, capsys, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("the cat sat on the mat\n\na dog\nthe\n")
    assert main([decoder, "--prompts", str(tmp_path / "prompts.txt"), "--max-new", "5", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["prompt"] for line in lines] == ["the cat sat on the mat", "a dog", "the"]
    monkeypatch.setattr("sys.stdin", io.StringIO("a dog\n"))
    assert main([decoder, "-", "--max-new", "5"]) == 0
    assert capsys.readouterr().out == lines[1]["text"] + "\n"


def test_a_line_of_a_file_ends_at_a_line_feed_alone(decoder, capsys, tmp_path):
    (tmp_path / "prompts.txt").write_bytes("the\u2028cat\x0csat\r\na dog".encode())
    assert main([decoder, "--prompts", str(tmp_path / "prompts.txt"), "--max-new", "2", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]
    assert [line["prompt"] for line in lines] == ["the\u2028cat\x0csat", "a dog"]


def test_a_prompt_that_is_not_utf8_is_said(decoder, monkeypatch):
    with pytest.raises(ValueError, match=r"^the prompt is not UTF-8 at character 6: "):
        main([decoder, os.fsdecode(b"the na\xefve")])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the na\xefve"), encoding="utf-8"))
    with pytest.raises(ValueError, match="standard input is not UTF-8 at byte 6"):
        main([decoder, "-"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef"), "utf-8", errors="surrogateescape"))
    with pytest.raises(ValueError, match="not UTF-8 at character 0"):
        main([decoder, "-"])


def test_a_seed_asks_for_sampling(decoder, capsys):
    assert main([decoder, "the cat", "--max-new", "12", "--seed", "1"]) == 0
    sampled = capsys.readouterr().out
    assert sampled == generate(load(decoder), "the cat", max_new=12, temperature=1.0, seed=1) + "\n"
    assert main([decoder, "the cat", "--max-new", "12"]) == 0
    assert capsys.readouterr().out != sampled


@pytest.mark.parametrize(
    "flags", ["--temperature 0.8", "--top-k 4", "--top-p 0.5", "--min-p 0.1", "--seed 0", "--top-k 4 --seed 1 --n 2"]
)
def test_greedy_goes_with_nothing_that_draws(decoder, flags):
    named = ", ".join(word for word in flags.split() if word.startswith("--"))
    with pytest.raises(ValueError, match=f"^--greedy draws nothing: leave out either it or {named}$"):
        main([decoder, "the", "--greedy", *flags.split()])


def test_a_dry_run_tells_and_writes_nothing(decoder, encoder, capsys, monkeypatch):
    lm = load(decoder)
    monkeypatch.setattr("modelwright.recipes.generate.pieces", lambda *_: pytest.fail("a token was drawn"))
    assert main([decoder, "the cat", "--dry-run", "--max-new", "9", "--n", "3", "--seed", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    tokens = len(lm.tokenizer.encode("the cat", special=True))
    weights = 4 * sum(p.numel() for p in lm.model.parameters())
    assert told["prompt_tokens"] == [tokens]
    assert told["bytes"] == weights + 4 * 2 * 2 * 32 * (tokens + 9) * 3  # keys and values of 2 layers, 32 wide
    assert (told["settings"]["n"], told["settings"]["seed"], told["settings"]["temperature"]) == (3, 4, 1.0)
    assert main([decoder, "the cat", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"model: decoder, {weights // 4:,} parameters: width 32, 2 layers"
    assert lines[1] == f"prompt: {tokens} tokens"
    assert lines[2].startswith("settings: max_new 128, temperature 0.0, repetition_penalty 1.0")
    assert "seed" not in lines[2]
    with pytest.raises(ValueError, match="context is 48"):
        main([decoder, "the " * 60, "--dry-run"])
    with pytest.raises(ValueError, match="an encoder only fills"):
        main([encoder, "the [MASK]", "--dry-run"])
    for flags in (["--beams", "4"], ["--seed", "1"], ["--stop", "x"], ["--max-new", "5"], ["--greedy"], ["--n", "2"]):
        with pytest.raises(ValueError, match=f"{flags[0]} is for models that write on"):
            main([encoder, "the [MASK]", *flags])


def test_a_stop_string_and_a_full_context(decoder, capsys):
    full = generate(load(decoder), "the cat", max_new=40, temperature=0)
    assert main([decoder, "the cat", "--max-new", "500"]) == 0
    shown = capsys.readouterr()
    assert "context was full" in shown.err
    assert shown.out.startswith(full)
    assert main([decoder, "the cat", "--max-new", "40", "--stop", full[5:8], "--stop", "zzz"]) == 0
    assert capsys.readouterr().out == full[: full.index(full[5:8])] + "\n"


def test_an_encoder_fills_masks(encoder, capsys):
    text = "the [MASK] sat on [MASK]"
    expected = fill_mask(load(encoder), text, 3)
    assert main([encoder, text, "--top", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["masks"] == [[vars(c) for c in mask] for mask in expected]
    assert main([encoder, text, "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if "%" in line] == [c.text for mask in expected for c in mask]
    assert lines[0] == f"mask 1 of 2: {text}"


def test_bfloat16(decoder, capsys):
    assert main([decoder, "the cat", "--max-new", "4", "--precision", "bf16"]) == 0
    assert capsys.readouterr().out == generate(load(decoder, dtype=torch.bfloat16), "the cat", max_new=4) + "\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "a prompt"),
        (["the", "--prompts", "file"], "either a prompt"),
        (["the", "--top-p", "3"], "top_p must be above 0"),
        (["the", "--tempreature", "3"], "--temperature"),
        (["the", "--greedy", "--n", "2"], "--greedy draws nothing"),
        (["the " * 60], r"6\d tokens.*context is 48"),
    ],
)
def test_mistakes_are_one_sentence(decoder, flags, said):
    with pytest.raises(ValueError, match=said):
        main([decoder, *flags])


def test_beams(decoder, capsys, tmp_path):
    lm, by = load(decoder), ["--beams", "4", "--length-penalty", "0.6", "--max-new", "7"]
    best = complete(lm, ["the cat", "a dog"], max_new=7, beams=4, n=2, length_penalty=0.6)
    assert main([decoder, "the cat", *by]) == 0
    assert capsys.readouterr().out == best[0].text + "\n"
    (tmp_path / "prompts").write_text("the cat\na dog\n")
    assert main([decoder, "--prompts", str(tmp_path / "prompts"), *by, "--n", "2", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["sample"], line["tokens"], line["seed"]) for line in lines] == [
        (at % 2, one.tokens, None) for at, one in enumerate(best)
    ]
    assert main([decoder, "the cat", *by, "--dry-run"]) == 0
    assert "beams 4, length_penalty 0.6" in capsys.readouterr().out
    (tmp_path / "schema.json").write_text("{}")
    for more, said in (
        (["--beams", "4", "--schema", str(tmp_path / "schema.json")], "--beams cannot be held to a JSON schema"),
        (["--beams", "4", "--greedy"], "leave out either it or --beams"),
        (["--beams", "4", "--top-p", "0.9"], "4 beams look for the likeliest text and draw nothing"),
        (["--beams", "2", "--n", "3"], "n is 3, but 2 beams find 2 texts"),
    ):
        with pytest.raises(ValueError, match=said):
            main([decoder, "the cat", *more])


def test_files_that_hold_no_prompts(decoder, tmp_path):
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "latin").write_bytes("the naïve".encode("latin-1"))
    with pytest.raises(ValueError, match="holds no prompt"):
        main([decoder, "--prompts", str(tmp_path / "empty")])
    with pytest.raises(ValueError, match="not UTF-8 at byte 6"):
        main([decoder, "--prompts", str(tmp_path / "latin")])
    with pytest.raises(FileNotFoundError):
        main([decoder, "--prompts", str(tmp_path / "none")])


def test_by_a_schema(decoder, encoder, capsys, tmp_path):
    schema, flags = tmp_path / "schema.json", ["--temperature", "1", "--n", "4", "--seed", "3", "--json"]
    schema.write_text('{"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2}')
    by = ["--schema", str(schema)]
    assert main([decoder, "the cat", *by, "--max-new", "40", *flags]) == 0
    written = capsys.readouterr()
    lines = [json.loads(line) for line in written.out.splitlines()]
    assert [line["finish"] for line in lines] == ["stop"] * 4
    assert {tuple(json.loads(line["text"])) for line in lines} <= {(a, *b) for a in "ab" for b in ("", "a", "b")}
    assert written.err == ""
    assert main([decoder, "the cat", *by, "--max-new", "40", "--no-stream"]) == 0
    assert capsys.readouterr().out.startswith("--- 1: the cat\n[")
    assert main([decoder, "the cat", *by, "--max-new", "2"]) == 0
    assert capsys.readouterr().err == "modelwright: the continuation ended before the JSON was whole: raise --max-new\n"
    with pytest.raises(ValueError, match="--schema is for models that write on"):
        main([encoder, "the [MASK]", *by])
    schema.write_text('{"not": {}}')
    for more in ([], ["--dry-run"]):
        with pytest.raises(ValueError, match=r"schema\.json: the schema has the keyword 'not', which is not supported"):
            main([decoder, "the cat", *by, *more])
    schema.write_text("{")
    with pytest.raises(ValueError, match=r"schema\.json: Expecting property name"):
        main([decoder, "the cat", *by])
    schema.write_text(
        '{"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"],'
        ' "$defs": {"a": {"$ref": "#/$defs/a"}}}'
    )
    with pytest.raises(
        ValueError, match=r"not every continuation is whole JSON.*: it leads to where no value is valid"
    ):
        main([decoder, "the cat", *by, "--max-new", "40"])
