"""Pretraining that goes on from a model: its weights, its tokenizer, its family; what is refused, and what is kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modelwright import cli
from modelwright.data import desk
from modelwright.data.pack import Objective
from modelwright.data.tokenizer import train
from modelwright.hub.open import LanguageModel, load, save
from modelwright.model.transformer import Config, Relative, Transformer, initialise
from modelwright.recipes.watch import Watch
from pretrained import KINDS, command, stopping_at, write_corpus

GPT2 = Config(
    vocab=600, width=32, layers=2, heads=2, kv_heads=2, head=16, ffn=64, context=64, norm="layer", act="gelu_tanh",
    gated=False, attn_bias=True, ffn_bias=True, learned=True, dropout=0.1,
)  # fmt: skip
BERT = dataclasses.replace(
    GPT2, causal=False, types=2, head_transform=True, head_bias=True, embed_norm=True, pre_norm=False, final_norm=False,
    act="gelu",
)  # fmt: skip
_T5 = Config(
    vocab=600, width=32, layers=2, heads=2, kv_heads=2, head=16, ffn=64, context=64, eps=1e-6, act="relu", gated=False,
    relative=Relative(8, 20), attn_scale=1.0, scale_logits=32**-0.5, dropout=0.1,
)  # fmt: skip
T5 = dataclasses.replace(_T5, encoder=dataclasses.replace(_T5, causal=False))
_BART = dataclasses.replace(
    GPT2, act="gelu", pre_norm=False, final_norm=False, embed_norm=True, offset=2, embed_scale=32**0.5
)
BART = dataclasses.replace(_BART, encoder=dataclasses.replace(_BART, causal=False, layers=1))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


RUNS = ("first", "second")


def going_on(corpus: Path, model: Path, output: Path, *more: str) -> list[str]:
    return ["pretrain", str(corpus), "--init", str(model), "--output", str(output), *more]


@pytest.mark.parametrize("objective", list(KINDS))
def test_training_goes_on_from_the_weights_and_the_tokenizer_of_a_model(
    objective: Objective, corpus: Path, tmp_path: Path
) -> None:
    """At a rate of nearly nothing the model stays what it was; and what it was is better than a fresh one."""
    assert cli.main(command(corpus, tmp_path / "first", objective, "--rate", "0.02")) == 0
    more = ["--objective", objective, "--steps", "2", "--rate", "1e-9", "--matrix-rate", "1e-9", "--json"]
    assert cli.main(going_on(corpus, tmp_path / "first/model", tmp_path / "second", *more)) == 0
    losses = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])["loss"] for name in RUNS]
    assert losses[1] < losses[0] - 0.3
    for name in ("tokenizer.json", "config.json", "generation_config.json"):
        files = [(tmp_path / run / "model" / name).read_text() for run in RUNS]
        assert files[0] == files[1]
    ours, theirs = (load_file(tmp_path / name / "model/model.safetensors") for name in RUNS)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_steps_that_are_timed_spoil_nothing(corpus: Path, tmp_path: Path) -> None:
    """They are made at full rates on a model that is thrown away: the first step's loss is that of the model itself."""
    assert cli.main(command(corpus, tmp_path / "first", "causal", "--rate", "0.02")) == 0
    for name, length in (("timed", "--time=2s"), ("counted", "--steps=3")):
        more = [length, "--batch", "256", "--rate", "0.5", "--matrix-rate", "0.5", "--precision", "fp32", "--json"]
        assert cli.main(going_on(corpus, tmp_path / "first/model", tmp_path / name, *more)) == 0
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines()[0] for name in ("timed", "counted")]
    assert json.loads(lines[0])["loss"] == json.loads(lines[1])["loss"]


def test_what_it_was_before_is_told_and_its_dropout_stays(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command(corpus, tmp_path / "first", "masked", "--dropout", "0.25")) == 0
    first = json.loads(capsys.readouterr().out)
    more = ["--objective", "masked", "--steps", "1", "--rate", "1e-9", "--matrix-rate", "1e-9"]
    assert cli.main(going_on(corpus, tmp_path / "first/model", tmp_path / "second", *more)) == 0
    assert json.loads((tmp_path / "second/model/config.json").read_text())["hidden_dropout_prob"] == 0.25
    said = " ".join(capsys.readouterr().err.split())
    assert "; on from" in said
    came = json.loads((tmp_path / "second/plan.json").read_text())
    assert came["begun"]["held_out_loss"] == pytest.approx(came["actual"]["held_out_loss"], rel=1e-3)
    assert came["begun"]["held_out_loss"] == pytest.approx(first["actual"]["held_out_loss"], rel=0.2)
    assert "before)" in said


@pytest.mark.parametrize(
    ("family", "objective", "cfg"),
    [("gpt2", "causal", GPT2), ("bert", "masked", BERT), ("t5", "span", T5), ("bart", "denoise", BART)],
)
def test_a_family_that_is_not_ours_stays_what_it_is(
    family: str, objective: Objective, cfg: Config, corpus: Path, tmp_path: Path
) -> None:
    """Token types, learned positions, a tied and scaled head: the same kind of model again, and nearly the same."""
    texts = [document.text for document in desk.documents(0, count=60)]
    words = train(texts, KINDS[objective], 600, objective=objective)  # type: ignore[arg-type]
    encoder = cfg.encoder and dataclasses.replace(cfg.encoder, vocab=words.vocab)
    cfg = dataclasses.replace(cfg, vocab=words.vocab, encoder=encoder)
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(0)).eval()
    save(LanguageModel(model, words, {"eos_token_id": words.eos, "temperature": 0.7}), tmp_path / "first")
    more = ["--objective", objective, "--steps", "2", "--rate", "1e-9", "--matrix-rate", "1e-9", "--json"]
    assert cli.main(going_on(corpus, tmp_path / "first", tmp_path / "second", *more)) == 0
    found = load(tmp_path / "second/model")
    again = found.model
    assert again.cfg == model.cfg
    assert found.generation["temperature"] == 0.7
    assert json.loads((tmp_path / "second/model/config.json").read_text())["model_type"] == family
    assert all(torch.allclose(again.state_dict()[name], p, atol=1e-6) for name, p in model.state_dict().items())


def test_rows_may_be_shorter_than_what_the_model_reads(corpus: Path, tmp_path: Path) -> None:
    assert cli.main(command(corpus, tmp_path / "first")) == 0
    assert (
        cli.main(going_on(corpus, tmp_path / "first/model", tmp_path / "second", "--context", "16", "--steps", "2"))
        == 0
    )
    assert json.loads((tmp_path / "second/plan.json").read_text())["predicted"]["length"] == 16
    assert json.loads((tmp_path / "second/model/config.json").read_text())["max_position_embeddings"] == 64


def test_whole_documents_get_rows_as_long_as_the_model_reads(tmp_path: Path) -> None:
    shape = "--width 32 --layers 1 --heads 2 --vocab 600 --batch 600 --steps 1 --context 300 --json"
    long = ["pretrain", "desk+episodes:60", *shape.split()]
    assert cli.main([*long, "--output", str(tmp_path / "first")]) == 0
    for more, length in (((), 256), (("--whole",), 300), (("--whole", "--context", "100"), 100)):
        again = ["pretrain", "desk+episodes:60", "--init", str(tmp_path / "first/model"), "--steps", "1", "--json"]
        assert cli.main([*again, *more, "--output", str(tmp_path / f"{length}")]) == 0
        assert json.loads((tmp_path / f"{length}/plan.json").read_text())["predicted"]["length"] == length


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ((), "say how long to go on from --init: --time 3min or --steps 1000"),
        (("--steps", "2", "--size", "1M", "--kv-heads", "1"), "as it is: leave out --size, --kv-heads"),
        (("--steps", "2", "--objective", "span"), "--objective span trains no decoder, and --init"),
        (("--steps", "2", "--context", "65"), "--context 65 is more than the 64 tokens that"),
        (("--steps", "2", "--init", "no/such/model"), "no/such/model"),
    ],
)
def test_what_a_model_that_is_there_has_settled_is_not_said_again(
    more: tuple[str, ...], sentence: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command(corpus, tmp_path / "first")) == 0
    assert cli.main(going_on(corpus, tmp_path / "first/model", tmp_path / "second", *more)) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_what_goes_on_from_a_model_resumes_to_the_bit(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(command(corpus, tmp_path / "first")) == 0
    more = ["--steps", "8", "--save-every", "4", "--json"]
    assert cli.main(going_on(corpus, tmp_path / "first/model", tmp_path / "whole", *more)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Watch, "step", stopping_at(5))
        again = going_on(corpus, tmp_path / "first/model", tmp_path / "parts", *more)
        assert cli.main(again) == 128 + signal.SIGTERM
    shutil.rmtree(tmp_path / "first")  # what began needs the model no more
    assert cli.main(["pretrain", "--resume", "--output", str(tmp_path / "parts"), "--json"]) == 0
    ours, theirs = (load_file(tmp_path / name / "model/model.safetensors") for name in ("parts", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
