"""Encoders as they are published: how many numbers they hold, what they read, and that one is tuned with its tokenizer.

Letters: B batch, T length.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Inner

import tasks
import tiny
from modelwright import cli
from modelwright.adapt.open import open_model
from modelwright.data.pack import Masking, masking, packing
from modelwright.data.pairs import around
from modelwright.data.tokenizer import Tokenizer
from modelwright.evaluate.scorer import ModelScorer
from modelwright.hub.open import LanguageModel, load, save
from modelwright.infer.fill import fill_mask
from modelwright.model import checkpoint
from modelwright.model.families import FAMILIES
from modelwright.model.transformer import Config, Transformer, initialise
from modelwright.plan.cost import parameters
from modelwright.recipes import pretrain

ROBERTA = replace(tasks.BERT, types=1, offset=2, eps=1e-5)
DISTILBERT = replace(tasks.BERT, types=0, pooler_act="relu")
SIZES = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
PUBLISHED = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}

# -- as published -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "stem", "said", "count"),
    [
        ("roberta", "Roberta", PUBLISHED, 124_697_433),
        ("roberta", "Roberta", PUBLISHED | SIZES, 355_412_057),
        ("distilbert", "DistilBert", {}, 66_985_530),
    ],
    ids=["roberta-base", "roberta-large", "distilbert-base-uncased"],
)
def test_parameters_of_published_models(kind: str, stem: str, said: dict[str, Any], count: int) -> None:
    config = getattr(transformers, f"{stem}Config")(**said)
    cfg = FAMILIES[kind].read(config.to_dict())
    with torch.device("meta"):
        theirs = getattr(transformers, f"{stem}ForMaskedLM")(config)
    assert parameters(cfg) == count
    for model in (theirs, checkpoint.blank(cfg)):
        assert sum(p.numel() for p in model.parameters()) == count
    assert cfg.context == 512


@torch.no_grad()
def test_padded_rows_are_as_the_other_library_reads_them(tmp_path: Path) -> None:
    """Its positions are counted of what is no padding; the kept tokens alone are compared."""
    theirs = tiny.make("roberta")
    theirs.save_pretrained(tmp_path)
    ours, x, kept = (
        checkpoint.load(tmp_path),
        tiny.tokens(3, 20),
        torch.arange(20)[None] < torch.tensor([[20], [7], [13]]),
    )
    x = x.where(kept, 1)  # (B, T)
    want, got = theirs(x, attention_mask=kept.long()).logits, ours(x, segment=kept.long())
    torch.testing.assert_close(got[kept], want[kept], atol=1e-5, rtol=0)
    assert (got[~kept] - want[~kept]).abs().max() > 0.1


@torch.no_grad()
def test_the_longest_text_has_the_last_row_of_the_table(tmp_path: Path) -> None:
    theirs, x = tiny.make("roberta"), tiny.tokens(1, 96)
    theirs.save_pretrained(tmp_path)
    ours = checkpoint.load(tmp_path)
    assert (ours.cfg.context, ours.cfg.offset, ours.embed.positions.num_embeddings) == (96, 2, 98)
    torch.testing.assert_close(ours(x), theirs(x).logits, atol=1e-5, rtol=0)
    for model in (ours, theirs):
        with pytest.raises((IndexError, RuntimeError)):  # theirs gathers its token types first
            model(tiny.tokens(1, 97))


# -- with a tokenizer as RoBERTa's ------------------------------------------------------------------------


def byte_level(directory: Path) -> Tokenizer:
    """Byte-level BPE with <s> and </s> round a text and a <mask> that takes the space before it, as it is published."""
    inner = Inner(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)]
    inner.train_from_iterator(
        [f"{text} {tasks.COLOURS[text.split()[-1]]}" for text in tasks.TEXTS],
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=inner.pre_tokenizer.alphabet()),
    )
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    directory.mkdir(parents=True, exist_ok=True)
    inner.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    return Tokenizer.load(directory)


def encoder_in(directory: Path, cfg: Config) -> Path:
    """A random encoder, RoBERTa's tokenizer with RoBERTa's positions, word pieces with others."""
    words = byte_level(directory / "words") if cfg.offset else tasks.tokenizer("encoder")
    model = initialise(Transformer(replace(cfg, vocab=words.vocab)), torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        model.head.proj.weight.mul_(10)
    save(LanguageModel(model, words, {"pad_token_id": words.pad}), directory / "model")
    return directory / "model"


def test_the_masked_objective_finds_its_tokens(tmp_path: Path) -> None:
    words = byte_level(tmp_path)
    assert (words.cls, words.pad, words.sep, words.unk, words.mask) == (0, 1, 2, 3, 4)
    assert (words.bos, words.eos) == (0, 2)
    assert masking(words) == Masking(0, 2, 4, words.vocab, (0, 1, 2, 3, 4))
    ids = np.array(words.encode("the old sea red", special=True))
    row = packing("masked", words, 16).row(ids, np.arange(len(ids)) == 0, np.random.default_rng(0))
    assert (row.targets == ids).all()
    assert (row.tokens[row.weight > 0] == 4).all()
    words.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    assert again.roles == words.roles
    assert around(again) == ([0], [2])


@torch.no_grad()
def test_a_mask_is_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = encoder_in(tmp_path, ROBERTA)
    lm, text = load(path), "the old <mask> red <mask>"
    ids = [0, *lm.tokenizer.encode("the old"), 4, *lm.tokenizer.encode(" red"), 4, 2]
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(path)(torch.tensor([ids])).logits.softmax(-1)[0]
    assert cli.main(["generate", str(path), text, "--top", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["masks"]
    for candidates, place in zip(found, [i for i, token in enumerate(ids) if token == 4], strict=True):
        best = theirs[place].topk(3)
        assert [c["token"] for c in candidates] == best.indices.tolist()
        assert [c["probability"] for c in candidates] == pytest.approx(best.values.tolist(), abs=1e-5)
    opened = transformers.AutoTokenizer.from_pretrained(path)
    assert opened(text)["input_ids"] == ids


def test_a_text_beyond_the_context_is_told_the_texts_own_limit(tmp_path: Path) -> None:
    lm = load(encoder_in(tmp_path, ROBERTA))
    room = lm.model.cfg.context - 2
    assert len(fill_mask(lm, "<mask>" * room)) == room == 46
    with pytest.raises(ValueError, match="the text has 49 tokens, but the model's context is 48: shorten it"):
        fill_mask(lm, "<mask>" * (room + 1))
    scorer = ModelScorer(lm)  # reads a long text in pieces
    assert scorer.embed(["the old sea red " * 40]).shape == (1, 32)
    assert scorer.rolling(["the old sea red " * 40])[0].tokens > 10


# -- tuned ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cfg", "stem"), [(ROBERTA, "Roberta"), (DISTILBERT, "DistilBert")])
@pytest.mark.parametrize(("kind", "head"), [("classify", "Sequence"), ("tag", "Token")])
def test_a_task_is_learned_and_saved_as_the_family(
    cfg: Config, stem: str, kind: str, head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(pretrain, "measure_peak", lambda dtype: 1e9)
    path, task = encoder_in(tmp_path / "base", cfg), tasks.task_in(tmp_path / "task", kind)
    more = ["--method", "full", "--steps", "60", "--rate", "0.01", "--precision", "fp32", "--dropout", "0", "--tests"]
    command = ["tune", str(path), "--task", str(task), "--output", str(tmp_path / "run"), *more, "2", "--json"]
    assert cli.main(command) == 0
    tuned = json.loads(capsys.readouterr().out.splitlines()[-1])["model"]
    said = json.loads((Path(tuned) / "config.json").read_text())
    assert said["architectures"] == [f"{stem}For{head}Classification"]
    lm, x = open_model(tuned), torch.arange(5, 25).view(2, 10)
    assert (lm.model.cfg.context, lm.model.cfg.offset) == (48, cfg.offset)
    theirs = getattr(transformers, f"AutoModelFor{head}Classification").from_pretrained(tuned)
    with torch.no_grad():
        got = lm.model(x)[:, 0] if kind == "classify" else lm.model(x)
        torch.testing.assert_close(got, theirs(x).logits, atol=1e-4, rtol=0)
    assert cli.main(["evaluate", tuned, "--task", str(task), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert all(score["value"] > 0.9 for score in scores.values())
