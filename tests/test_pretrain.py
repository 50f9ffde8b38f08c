"""Pretraining as a whole: against a plain loop, stopped and resumed, on every objective; and the command itself."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from modelwright import cli
from modelwright.data import desk
from modelwright.data.documents import Document, read
from modelwright.data.loader import Loader
from modelwright.data.pack import Objective, packing
from modelwright.data.shards import Part, Shards, write
from modelwright.data.shards import Run as Span
from modelwright.data.tokenizer import Tokenizer, train
from modelwright.losses.language import language_model
from modelwright.model import attend, transformer
from modelwright.model.attend import Mask, plain
from modelwright.model.transformer import Transformer, initialise
from modelwright.plan.size import ByHand, build
from modelwright.recipes.run import Run
from modelwright.train import optim
from modelwright.train.interrupt import Interrupted
from modelwright.train.loop import Diverged, fit

OBJECTIVES: tuple[Objective, ...] = ("causal", "masked", "span")
KINDS = {"causal": "bpe", "masked": "wordpiece", "span": "unigram"}
TEXTS = ("desk", "tinyshakespeare/train.txt", "wikitext-2/valid.txt")


def documents_of(name: str) -> Iterator[Document]:
    if name == "desk":
        return desk.documents(0, count=60)
    folder = os.environ.get("MODELWRIGHT_DATA")
    if not folder:
        pytest.skip(f"{name} is read from the folder that MODELWRIGHT_DATA names, and it names none")
    text = next(iter(read(Path(folder) / name))).text[:60_000]
    return iter([Document(part, str(i)) for i, part in enumerate(text.split("\n\n")) if part.strip()])


def prepare(name: str, objective: Objective, directory: Path) -> tuple[Shards, Tokenizer]:
    texts = list(documents_of(name))
    tokenizer = train((d.text for d in texts), KINDS[objective], 600, objective=objective)  # type: ignore[arg-type]
    return write(texts, tokenizer, directory / "shards", objective=objective, processes=1), tokenizer


def make(objective: Objective, vocab: int, dropout: float = 0.0) -> Transformer:
    cfg = build(objective, vocab, 32, 2, ByHand(heads=2), 48)
    encoder = cfg.encoder and dataclasses.replace(cfg.encoder, dropout=dropout)
    cfg = dataclasses.replace(cfg, dropout=dropout, encoder=encoder)
    return initialise(Transformer(cfg), torch.Generator().manual_seed(0)).train()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[Objective, tuple[Shards, Tokenizer]]:
    return {o: prepare("desk", o, tmp_path_factory.mktemp(o)) for o in OBJECTIVES}


# -- against a plain loop ---------------------------------------------------------------------------------


def plainly(model: Transformer, batches: Iterator[Any], steps: int, rate: float) -> list[float]:
    """What a reader of the papers would write: logits, cross-entropy, AdamW, a clipped norm."""
    decays = [p for n, p in model.named_parameters() if p.dim() > 1 and not n.startswith(("embed.", "head.proj."))]
    others = [p for p in model.parameters() if not any(p is q for q in decays)]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), foreach=False, fused=False)
    losses = []
    for batch in islice(batches, steps):
        logits = model(batch.tokens, pos=batch.pos, segment=batch.segment, source=batch.source)  # (B, T, V)
        each = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        loss = (each * batch.weight.flatten()).sum() / batch.weight.sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float, dropout: float = 0.0) -> Tensor:
    return plain(q, k, v, mask, scale)


@pytest.mark.parametrize("name", TEXTS, ids=["desk", "shakespeare", "wikitext"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_trains_as_a_plain_loop_does(
    objective: Objective, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, tokenizer = prepare(name, objective, tmp_path)
    model = make(objective, tokenizer.vocab)
    reference = copy.deepcopy(model)
    packed = packing(objective, tokenizer, 48)
    losses: list[float] = []
    fit(
        model,
        Loader(shards.whole(), packed, batch=4),
        language_model,
        optim.make(model, "adamw", 1e-3),
        steps=20,
        after_step=lambda step, metrics: losses.append(metrics["loss"]),
    )
    monkeypatch.setattr(transformer, "attend", attend_plainly)
    expected = plainly(reference, iter(Loader(shards.whole(), packed, batch=4)), 20, 1e-3)
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-5
    assert sum(losses[-5:]) / 5 < losses[0] - 0.1, "and it learns"


# -- stopped and resumed ----------------------------------------------------------------------------------


def run_in(
    directory: Path,
    prepared: tuple[Shards, Tokenizer],
    dropout: float,
    accumulate: int,
    objective: Objective,
    edge: bool,
) -> Run:
    """A run that starts afresh; at an `edge` its epoch is just four steps long."""
    shards, tokenizer = prepared
    torch.manual_seed(0)
    model = make(objective, tokenizer.vocab, dropout)
    part = Part(shards, [Span(0, 0, 4 * 2 * accumulate * 48 + 1)]) if edge else shards.whole()
    loader = Loader(part, packing(objective, tokenizer, 48), batch=2)
    assert loader.rows == 8 * accumulate if edge else loader.rows > 8 * accumulate
    return Run(directory, model, optim.make(model, "muon", 1e-3, matrix_lr=0.02), loader)


def go(run: Run, steps: int, accumulate: int, precision: Any, stop_at: int | None = None) -> list[tuple[float, float]]:
    told: list[tuple[float, float]] = []

    def watch(step: int, metrics: dict[str, Any]) -> None:
        told.append((metrics["loss"], metrics["grad_norm"]))
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with nullcontext() if stop_at is None else pytest.raises(Interrupted, match="SIGTERM"):
        run.fit(
            language_model,
            steps=steps,
            accumulate=accumulate,
            clip=1.0,
            precision=precision,
            schedule=optim.cosine(steps, 2),
            test=dict,
            test_every=3,
            save_every=100,
            watch=watch,
        )
    return told


@pytest.mark.parametrize("edge", [False, True], ids=["mid-epoch", "epoch edge"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_resumed_is_uninterrupted_to_the_bit(
    precision: str, accumulate: int, dropout: float, edge: bool, tmp_path: Path, prepared: dict[str, Any]
) -> None:
    objective: Objective = "causal" if edge or accumulate == 4 else "span"
    args = (prepared[objective], dropout, accumulate, objective, edge)
    steps, stop_at = 7, 4 if edge else 3
    expected = go(run_in(tmp_path / "whole", *args), steps, accumulate, precision)
    told = go(run_in(tmp_path / "parts", *args), steps, accumulate, precision, stop_at)
    assert len(told) == stop_at
    second = run_in(tmp_path / "parts", *args)
    torch.manual_seed(99)  # what is not restored would show
    assert second.restore() == ()
    place = {"epoch": 1, "row": 0} if edge else {"epoch": 0, "row": stop_at * 2 * accumulate}
    assert second.loader.state_dict() == place
    told += go(second, steps, accumulate, precision)
    assert told == expected
    ours, theirs = (load_file(tmp_path / name / "checkpoints/step-7/model.safetensors") for name in ("parts", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (
        load_file(tmp_path / name / "checkpoints/step-7/optimizer.safetensors") for name in ("parts", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_last_good_checkpoint(
    tmp_path: Path, prepared: dict[str, Any]
) -> None:
    run = run_in(tmp_path, prepared["causal"], 0.0, 1, "causal", False)
    before = [p.detach().clone() for p in run.model.parameters()]

    def broken(model: nn.Module, batch: Any) -> Any:
        terms, metrics = language_model(model, batch)
        total, weight, coefficient = terms["loss"]
        return {"loss": (total * float("nan"), weight, coefficient)}, metrics

    with pytest.raises(Diverged, match="10 steps in a row"):
        run.fit(
            broken,
            steps=50,
            accumulate=1,
            clip=1.0,
            precision="fp32",
            schedule=lambda step: 1.0,
            test=dict,
            test_every=50,
            save_every=50,
            watch=lambda step, metrics: None,
        )
    assert all(torch.equal(p, q) for p, q in zip(run.model.parameters(), before, strict=True))
    assert [p.name for p in (tmp_path / "checkpoints").glob("step-*")] == ["step-0"]


# -- the command ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "desk.jsonl"
    path.write_text("".join(json.dumps({"text": d.text}) + "\n" for d in desk.documents(0, count=300)))
    return path


def command(corpus: Path, output: Path, objective: str = "causal", *more: str) -> list[str]:
    by_hand = "--width 32 --layers 2 --heads 2 --context 64 --batch 512 --steps 12 --vocab 600 --json"
    return ["pretrain", str(corpus), "--objective", objective, "--output", str(output), *by_hand.split(), *more]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_command_makes_a_model_that_transformers_opens(
    objective: Objective, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    assert cli.main(command(corpus, tmp_path / "run", objective)) == 0
    came = json.loads(capsys.readouterr().out)
    assert came["actual"]["held_out_loss"] < 6.5
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert {"loss", "grad_norm", "tokens_per_second", "mfu", "peak_memory", "lr"} <= lines[0].keys()
    assert list((tmp_path / "run/tensorboard").iterdir())
    makers = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "span": "AutoModelForSeq2SeqLM"}
    theirs, report = getattr(transformers, makers[objective]).from_pretrained(came["model"], output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(came["model"])
    assert len(tokenizer("Hello")["input_ids"]) >= 1
    assert theirs.num_parameters() == came["predicted"]["parameters"]


def test_a_killed_command_resumes_to_the_same_model(corpus: Path, tmp_path: Path) -> None:
    assert cli.main(command(corpus, tmp_path / "whole")) == 0
    output = tmp_path / "parts"
    child = os.fork()
    if child == 0:  # die without a word, in the middle
        code = cli.main(command(corpus, output, "causal", "--save-every", "5"))
        os._exit(code)
    deadline = 400
    while deadline and not (output / "checkpoints/step-5").exists():
        os.waitpid(0, os.WNOHANG)
        deadline -= 1
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not (output / "model").exists():
        assert cli.main(["pretrain", "--resume", "--output", str(output), "--json"]) == 0
    ours, theirs = (load_file(path / "model/model.safetensors") for path in (output, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    steps = [json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["pretrain", "--output", "x"], "say what to train on"),
        (["pretrain", "nowhere.txt", "--size", "1M", "--output", "x"], "nowhere.txt"),
        (["pretrain", "desk", "--output", "x"], "say how large or how long"),
        (["pretrain", "desk:10", "--size", "ten", "--output", "x"], "cannot read 'ten' as a size"),
        (["pretrain", "--resume", "--output", "x"], "no run to resume in x"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    wrong: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(wrong) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_an_existing_run_is_never_overwritten(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.yaml").write_text("{}")
    assert cli.main(command(corpus, tmp_path / "run")) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(corpus, tmp_path / "run", "causal", "--dry-run")) == 0
    assert not (tmp_path / "run").exists()


def test_the_fast_kernel_is_what_trains(prepared: dict[str, Any]) -> None:
    """The plain loop's test would compare plain with plain if the blocks of queries were never used."""
    shards, tokenizer = prepared["causal"]
    batch = next(iter(Loader(shards.whole(), packing("causal", tokenizer, 48), batch=2, prefetch=0)))
    logps = make("causal", tokenizer.vocab)(batch.tokens, batch.targets, pos=batch.pos, segment=batch.segment)
    names, todo = set(), [logps.grad_fn]
    while todo:
        node = todo.pop()
        names.add(type(node).__name__)
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    assert {"_BlockwiseBackward", "_TokenLogpsBackward", "_RMSNormBackward", "_RotateBackward"} <= names
    assert attend.LONG >= 48
