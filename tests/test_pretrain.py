"""Pretraining as a whole: against a plain loop, stopped and resumed, on every objective; and the command itself."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
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
from modelwright.recipes import pretrain
from modelwright.recipes.run import Run
from modelwright.recipes.watch import Screen, Watch
from modelwright.train import optim, state
from modelwright.train.interrupt import Interrupted
from modelwright.train.loop import Diverged, fit
from modelwright.train.meter import Meter
from pretrained import KINDS, command, stopping_at, write_corpus

OBJECTIVES: tuple[Objective, ...] = ("causal", "masked", "span", "denoise")
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


class Silent:
    def tick(self) -> None: ...
    def step(self, done: int, metrics: dict[str, Any]) -> None: ...
    def rest(self) -> None: ...


def go(run: Run, steps: int, accumulate: int, precision: Any, stop_at: int | None = None) -> list[tuple[float, float]]:
    told: list[tuple[float, float]] = []

    class Told(Silent):
        def step(self, done: int, metrics: dict[str, Any]) -> None:
            told.append((metrics["loss"], metrics["grad_norm"]))
            if done == stop_at:
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
            watch=Told(),
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


def broken_after(good: int) -> Any:
    """A loss that is no number from step `good` on."""
    seen = []

    def loss(model: nn.Module, batch: Any) -> Any:
        seen.append(1)
        terms, metrics = language_model(model, batch)
        total, weight, coefficient = terms["loss"]
        return {"loss": (total * (float("nan") if len(seen) > good else 1.0), weight, coefficient)}, metrics

    return loss


@pytest.mark.parametrize(("steps", "sentence"), [(50, "10 steps in a row"), (9, "the loss of the last step, 9")])
def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_last_good_checkpoint(
    steps: int, sentence: str, tmp_path: Path, prepared: dict[str, Any]
) -> None:
    run = run_in(tmp_path, prepared["causal"], 0.0, 1, "causal", False)
    with pytest.raises(Diverged, match=sentence):
        run.fit(
            broken_after(4),
            steps=steps,
            accumulate=1,
            clip=1.0,
            precision="fp32",
            schedule=lambda step: 1.0,
            test=dict,
            test_every=50,
            save_every=2,
            watch=Silent(),
        )
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == ["step-2", "step-4"]


# -- the command ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


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
    makers = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM"}
    maker = getattr(transformers, makers.get(objective, "AutoModelForSeq2SeqLM"))
    theirs, report = maker.from_pretrained(came["model"], output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(came["model"])
    assert len(tokenizer("Hello")["input_ids"]) >= 1
    assert theirs.num_parameters() == came["predicted"]["parameters"]


@pytest.mark.slow
def test_a_killed_command_resumes_to_the_same_model(corpus: Path, tmp_path: Path) -> None:
    steps = ["--steps", "60", "--save-every", "5"]
    assert cli.main(command(corpus, tmp_path / "whole", "causal", *steps)) == 0
    output = tmp_path / "parts"
    killed = subprocess.Popen(
        [sys.executable, "-m", "modelwright.cli", *command(corpus, output, "causal", *steps)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while killed.poll() is None and not (output / "checkpoints/step-10").exists():
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, "it was in the middle"
    assert not (output / "model").exists()
    assert cli.main(["pretrain", "--resume", "--output", str(output), "--json"]) == 0
    ours, theirs = (load_file(path / "model/model.safetensors") for path in (output, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert [line["tokens"] for line in lines] == [512 * step for step in range(1, 61)]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["pretrain", "--output", "x"], "say what to train on"),
        (["pretrain", "nowhere.txt", "--size", "1M", "--output", "x"], "nowhere.txt"),
        (["pretrain", "desk", "--output", "x"], "say how large or how long"),
        (["pretrain", "desk:10", "--size", "ten", "--output", "x"], "cannot read 'ten' as a size"),
        (["pretrain", "--resume", "--output", "x"], "no run to resume in x"),
        (["pretrain", "desk", "--resume", "--steps", "3"], "leave out --data, --steps"),
        (["pretrain", "desk:10", "--size", "1M", "--heads", "-2", "--output", "x"], "heads"),
        (["pretrain", "desk:10", "--size", "1M", "--keep", "0", "--output", "x"], "--keep must be 1 or more, not 0"),
        (["pretrain", "desk:10", "--size", "1M", "--held-out", "1.5", "--output", "x"], "--held-out must lie between"),
        (["pretrain", "desk:10", "--size", "1M", "--seed", "-1", "--output", "x"], "--seed must lie between"),
        (["pretrain", "desk:10", "--sise", "1M", "--output", "x"], "perhaps you meant --size"),
        (["pretrain", "one.txt", "--size", "300k", "--vocab", "300", "--output", "x"], "give more text"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    wrong: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.txt").write_text("one line and no more\n")
    assert cli.main(wrong) == 2
    assert not Path("x").exists(), "the corrected command finds a free place"
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("name", "sentence"), [("plan.json", "holds a run already"), ("thesis.md", "is not empty")])
def test_what_is_there_is_never_overwritten(
    name: str, sentence: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("{}")
    assert cli.main(command(corpus, tmp_path / "run")) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]


@pytest.mark.parametrize("left", [[".lock"], [".lock", "run.yaml", "tokenizer/vocab.json", f".plan.json.{32 * 'a'}"]])
def test_what_a_run_left_that_was_killed_before_it_began_is_taken_over(
    left: list[str], corpus: Path, tmp_path: Path
) -> None:
    for name in left:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("half")
    assert cli.main(command(corpus, tmp_path / "run")) == 0
    assert (tmp_path / "run/model").is_dir()
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.read_bytes() == b"half"]


def test_a_lock_beside_other_files_is_no_sign_of_a_run(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".lock", "tokenizer", "thesis.md"):
        (tmp_path / "run" / name).write_text("mine")
    assert cli.main(command(corpus, tmp_path / "run")) == 2
    assert [path.read_text() for path in (tmp_path / "run").iterdir()] == ["mine"] * 3


def test_a_tokenizer_that_is_to_be_read_is_not_cleared_away(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "run/tokenizer").mkdir(parents=True)
    for name in (".lock", "tokenizer/tokenizer.json"):
        (tmp_path / "run" / name).write_text("mine")
    assert (
        cli.main(["pretrain", str(corpus), "--tokenizer", str(tmp_path / "run/tokenizer"), "-o", str(tmp_path / "run")])
        == 2
    )
    assert (tmp_path / "run/tokenizer/tokenizer.json").read_text() == "mine"


def stopped(corpus: Path, output: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    """A run of the command that a signal stops at step 5."""
    with monkeypatch.context() as patch:
        patch.setattr(Watch, "step", stopping_at(5))
        assert cli.main(command(corpus, output, "causal", *more)) == 128 + signal.SIGTERM


def test_a_resumed_run_decides_nothing_anew(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether bf16 pays is measured once: a machine that is slower the second time must not change the numbers."""
    peaks = {torch.bfloat16: 2e9, torch.float32: 1e9}
    monkeypatch.setattr(pretrain, "measure_peak", lambda dtype: peaks[dtype])
    assert cli.main(command(corpus, tmp_path / "whole")) == 0
    stopped(corpus, tmp_path / "parts", monkeypatch)
    peaks[torch.bfloat16] = 1e8
    assert cli.main(["pretrain", "--resume", "--output", str(tmp_path / "parts"), "--json"]) == 0
    ours, theirs = (load_file(tmp_path / name / "model/model.safetensors") for name in ("parts", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    both = capsys.readouterr().out.splitlines()
    assert json.loads(both[0])["actual"]["held_out_loss"] == json.loads(both[-1])["actual"]["held_out_loss"]


def test_an_unknown_key_in_a_kept_run_is_an_error(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(corpus, tmp_path / "run", monkeypatch)
    kept = tmp_path / "run/run.yaml"
    kept.write_text(kept.read_text().replace("steps:", "stepz:"))
    assert cli.main(["pretrain", "--resume", "--output", str(tmp_path / "run")]) == 2
    assert "unknown key 'stepz'; perhaps you meant steps" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence_and_the_old_checkpoint_stands(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = state._write_file

    def full(path: Path, chunks: Iterator[Any]) -> Any:
        if list((tmp_path / "run/checkpoints").glob("step-4")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, chunks)

    monkeypatch.setattr(state, "_write_file", full)
    assert cli.main(command(corpus, tmp_path / "run", "causal", "--save-every", "4")) == 2
    said = capsys.readouterr().err
    assert "make room, and go on with: modelwright pretrain --resume" in said
    assert "Traceback" not in said
    monkeypatch.setattr(state, "_write_file", write)
    assert cli.main(["pretrain", "--resume", "--output", str(tmp_path / "run"), "--json"]) == 0


def test_a_run_that_diverges_names_the_last_good_checkpoint(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrain, "language_model", broken_after(4))
    assert cli.main(command(corpus, tmp_path / "run", "causal", "--save-every", "2", "--test-every", "99")) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"the last good checkpoint is {tmp_path / 'run/checkpoints/step-4'}" in said


def test_half_precision_trains(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(corpus, tmp_path / "run", "causal", "--precision", "fp16")) == 0
    assert json.loads(capsys.readouterr().out)["actual"]["held_out_loss"] < 6.5


def test_the_desk_is_the_embedded_one_even_where_a_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("desk").mkdir()
    Path("desk/a.txt").write_text("no desk")
    args = command(Path("desk:200"), Path("run"))
    assert cli.main([*args, "--dry-run"]) == 0
    capsys.readouterr()
    assert cli.main(args) == 0
    assert json.loads(Path("run/shards/index.json").read_text())["shards"][0]["documents"] == 200


def test_bits_per_byte_by_hand() -> None:
    # 110 tokens in 10 documents: 100 are predicted, at 2 ln 2 nats each: 200 bits for 400 bytes
    part = SimpleNamespace(tokens=110, documents=10, bytes=400)
    assert pretrain.bits({"held_out_loss": 2 * math.log(2)}, part, "causal") == {  # type: ignore[arg-type]
        "held_out_bits_per_byte": pytest.approx(0.5)
    }
    assert pretrain.bits({"held_out_loss": 1.0}, part, "masked") == {}  # type: ignore[arg-type]


def test_testing_and_saving_do_not_count_as_training_time(corpus: Path, tmp_path: Path) -> None:
    now = [0.0]
    meter = Meter(1.0, 1.0, clock=lambda: now[0])
    with Watch(tmp_path, 2, 100, meter, Screen(quiet=True), 0) as watch:
        for done in (1, 2):
            now[0] += 1.0  # the step
            watch.tick()
            now[0] += 50.0  # testing
            watch.step(done, {"loss": 1.0, "grad_norm": 1.0})
            now[0] += 50.0  # saving
            watch.rest()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["tokens_per_second"] for line in lines] == [100.0, 100.0]


@pytest.mark.slow
def test_memory_is_flat_however_large_the_text(tmp_path: Path) -> None:
    """A text ten times the memory that it may take beyond what a short one takes."""
    lines = [json.dumps({"text": d.text}) + "\n" for d in desk.documents(0, count=100)]
    train(lines, "bpe", 300).save(tmp_path)
    peaks = []
    for name, size in (("small", 10 << 20), ("large", 300 << 20)):
        (tmp_path / f"{name}.jsonl").write_text("".join(lines) * (size // len("".join(lines))))
        args = command(tmp_path / f"{name}.jsonl", tmp_path / name, "causal", "--tokenizer", str(tmp_path))
        args = [word for word in args if word not in ("--vocab", "600")]
        done = subprocess.run(
            [sys.executable, "-m", "modelwright.cli", *args],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(json.loads(done.stdout)["actual"]["peak_memory"])
    assert peaks[1] - peaks[0] < 30 << 20, peaks


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
