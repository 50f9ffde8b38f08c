"""Summaries by transformers' own trainer, in as many minutes as ours had: ROUGE, beside ours on the same examples.

    python bench/seq2seq.py [--minutes 10] [--bf16] [--like RUN/model] [--init ours] [--against STEP/outcome ...]

The task is a project's (examples/dialogsum), read and cut into parts by modelwright, so that both learn from the same
examples and answer the same ones. The model is a T5 v1.1 of the shape that modelwright plans for --size, with a
tokenizer learned from the training inputs; or of the shape, and with the tokenizer, of --like, a model directory of
ours. It begins as T5 does (--init scratch), or with the weights of --like (--init ours). --against compares the
answers with saved ones, such as `steps/test-full-.../outcome` of a project's run directory, pair by pair.

What the peer does, where it might do otherwise: Seq2SeqTrainer with its fused AdamW, 1e-3 falling to 0 along a line
after 3% of warming up, batches of 16 padded to their longest, in random order (--grouped: alike in length), gradients
clipped at 1, no weight decay, no label smoothing, dropout as in the model's config (--dropout), sources of 512 tokens
at most; float32 (--bf16: its autocast). A probe of a few steps, not counted, says how many fit into the minutes, which
is what the schedule needs; a callback stops it there. The last weights are taken: it picks none on the select part.
Then it answers greedily, 64 tokens at most. --allocator has glibc keep large blocks, as ours does. One thing is mended
in its favour: of T5 v1.1, transformers begins with a head that is tied to the embedding of N(0, 1), with which the loss
begins near 50; here it is one of its own, of N(0, 1 / width), as in T5's own code (--head installed: as it comes).
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHAPE = ("width", "layers", "heads", "ffn", "context")
PROBE = 8  # steps that are timed, after two that warm up
SHOWN = ("rouge1", "rouge2", "rougeL", "rougeLsum")


# -- the model -----------------------------------------------------------------------------------


def planned(o: argparse.Namespace, texts: Sequence[str], directory: str) -> Path:
    """A model directory of the shape that modelwright plans, with a tokenizer of the texts; its weights go unused."""
    import torch

    from modelwright.data.tokenizer import train
    from modelwright.hub.open import LanguageModel, save
    from modelwright.model.transformer import Transformer, initialise
    from modelwright.plan.size import ByHand, parse_count, shape

    words = train(texts, "unigram", o.vocab, objective="span")
    hand = ByHand(**{name: getattr(o, name) for name in SHAPE})
    cfg = shape("span", words.vocab, parse_count(o.size), hand)
    model = initialise(Transformer(cfg), torch.Generator().manual_seed(o.seed))
    save(LanguageModel(model, words), Path(directory) / "model")
    return Path(directory) / "model"


def peer(o: argparse.Namespace, like: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration, logging

    logging.set_verbosity_error()
    torch.manual_seed(o.seed)
    said = {} if o.dropout is None else {"dropout_rate": o.dropout}
    words = AutoTokenizer.from_pretrained(like)
    if o.init == "ours":
        model = T5ForConditionalGeneration.from_pretrained(like, dtype=torch.float32, **said)
    else:
        model = T5ForConditionalGeneration(T5Config.from_pretrained(like, **said))
        if o.head == "own" and not model.config.scale_decoder_outputs:  # T5 v1.1
            fresh = torch.randn(model.config.vocab_size, model.config.d_model) * model.config.d_model**-0.5
            model.lm_head.weight, model.config.tie_word_embeddings = torch.nn.Parameter(fresh), False
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = config.pad_token_id = words.pad_token_id
        config.eos_token_id = words.eos_token_id
    return model, words


def texts(task: Any, examples: Sequence[Any]) -> list[str]:
    """What the model reads of each example."""
    from modelwright.data.kind import fill

    return [fill(task, "prompt", task.prompts[0], example) for example in examples]


def rows(task: Any, examples: Sequence[Any], words: Any, longest: int) -> list[dict[str, list[int]]]:
    from modelwright.data.kind import fill

    said = [fill(task, "completion", task.completion, example).strip() for example in examples]
    read = words(texts(task, examples), truncation=True, max_length=longest).input_ids
    return [{"input_ids": a, "labels": b} for a, b in zip(read, words(text_target=said).input_ids, strict=True)]


# -- training and answering ----------------------------------------------------------------------


def trainer(o: argparse.Namespace, model: Any, words: Any, train: Any, steps: int, watch: Any, where: str) -> Any:
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments

    args = Seq2SeqTrainingArguments(
        output_dir=where, max_steps=steps, per_device_train_batch_size=o.batch, per_device_eval_batch_size=32,
        learning_rate=o.rate, lr_scheduler_type="linear", warmup_steps=0.03, bf16=o.bf16, use_cpu=True, seed=o.seed,
        train_sampling_strategy="group_by_length" if o.grouped else "random", save_strategy="no", report_to=[],
        logging_steps=max(1, steps // 10), disable_tqdm=True, predict_with_generate=True,
    )  # fmt: skip
    collate = DataCollatorForSeq2Seq(words, model=model)
    made = Seq2SeqTrainer(
        model, args, data_collator=collate, train_dataset=train, processing_class=words, callbacks=[watch]
    )
    made.remove_callback(PrinterCallback)
    return made


def watcher(seconds: float) -> Any:
    """Notes when each step ended, and stops the training once its time is over."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.marks = [time.perf_counter()]

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.marks.append(time.perf_counter())
            control.should_training_stop |= self.marks[-1] - self.marks[0] >= seconds

    return Watch()


def learn(o: argparse.Namespace, model: Any, words: Any, train: Any, where: str) -> tuple[Any, int, float]:
    """The trainer with a trained model, its steps, and its seconds."""
    probe, limit = watcher(float("inf")), 60 * o.minutes
    trainer(o, copy.deepcopy(model), words, train, PROBE + 2, probe, where).train()
    each = statistics.fmean(b - a for a, b in zip(probe.marks[2:], probe.marks[3:], strict=False))
    watch = watcher(limit)
    made = trainer(o, model, words, train, max(1, int(limit / each)), watch, where)
    made.train()
    return made, len(watch.marks) - 1, watch.marks[-1] - watch.marks[0]


def answers(made: Any, words: Any, asked: Any, max_new: int) -> list[str]:
    found = made.predict(asked, max_new_tokens=max_new, num_beams=1, do_sample=False).predictions
    found = [[token if token >= 0 else words.pad_token_id for token in row] for row in found.tolist()]
    return [text.strip() for text in words.batch_decode(found, skip_special_tokens=True)]


# -- what it is worth ----------------------------------------------------------------------------


def judged(task: Any, part: str, examples: Sequence[Any], said: Sequence[str], seconds: float) -> Any:
    from modelwright.evaluate.tasks import Outcome, Output, judge, metrics_of, score_all

    metrics = metrics_of(task, examples)
    outputs = tuple(
        Output(example.id, "", text, task.reference(example), judge(metrics, task, example, text))
        for example, text in zip(examples, said, strict=True)
    )
    scores = score_all(metrics, [output.stats for output in outputs])
    return Outcome("", part, outputs, scores, metrics[0].name, seconds, 0)


def compared(outcome: Any, directory: str) -> list[str]:
    """Lines of a table: ours, and what the peer has more than ours."""
    from modelwright.recipes.results import against, apart, read_saved, told

    saved = read_saved(Path(directory))
    if [output.id for output in saved.outputs] != [output.id for output in outcome.outputs]:
        return []  # answers to another part
    found = against(outcome, saved, 0)
    ours = [told(found["scores"][name]) for name in SHOWN]
    more = [apart(found["difference"][name]) for name in SHOWN]
    return [f"| {outcome.part} | ours | {' | '.join(ours)} | |", f"| | peer - ours | {' | '.join(more)} | |"]


def report(o: argparse.Namespace, task: Any, parts: Any, made: Any, words: Any, context: int) -> None:
    from modelwright.recipes.results import data_digest, result, save, told

    print(f"\n| part | model | {' | '.join(SHOWN)} | seconds of answering |\n|---|---|{'---|' * (len(SHOWN) + 1)}")
    for part in o.parts:
        examples, start = parts[part], time.perf_counter()
        said = answers(made, words, rows(task, examples, words, context), task.decoding.max_new)
        outcome = judged(task, part, examples, said, time.perf_counter() - start)
        scores = " | ".join(told(vars(outcome.scores[name])) for name in SHOWN)
        print(f"| {part} (n = {len(examples)}) | peer | {scores} | {outcome.seconds:.0f} |")
        for line in (line for directory in o.against for line in compared(outcome, directory)):
            print(line)
        if o.output:
            more = {"data": data_digest(task, examples), "shots": 0, "seed": 0}
            save(Path(o.output) / part, result(outcome, "transformers Seq2SeqTrainer", more), outcome.outputs)


def run(o: argparse.Namespace, where: str) -> None:
    from modelwright.data.task import prepare
    from modelwright.project.spec import read_project
    from modelwright.recipes.results import read_saved

    task, parts = prepare(read_project(o.project).task)
    for directory in o.against:  # before minutes are spent, rather than after
        read_saved(Path(directory))
    if o.quick:
        parts = {part: examples[:48] for part, examples in parts.items()}
    like = Path(o.like) if o.like else planned(o, texts(task, parts["train"]), where)
    model, words = peer(o, like)
    made, steps, seconds = learn(o, model, words, rows(task, parts["train"], words, o.longest), where)
    losses = [said["loss"] for said in made.state.log_history if "loss" in said]
    read = steps * o.batch / len(parts["train"])
    print(f"{model.num_parameters():,} parameters, {steps} steps of {o.batch} in {seconds:.0f} s: {read:.2f} epochs of "
          f"{len(parts['train']):,} examples; {o.init}, {'bf16' if o.bf16 else 'fp32'}, rate {o.rate:g}; "
          f"loss from {losses[0]:.2f} to {losses[-1]:.2f}")  # fmt: skip
    report(o, task, parts, made, words, o.longest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("MODELWRIGHT_DATA"), help="the data folder")
    parser.add_argument("--project", default=str(ROOT / "examples/dialogsum/project.yaml"))
    parser.add_argument("--like", help="a model directory of ours: the shape and the tokenizer are taken from it")
    parser.add_argument("--init", choices=("scratch", "ours"), default="scratch")
    parser.add_argument("--head", choices=("own", "installed"), default="own", help="how it begins from scratch")
    parser.add_argument("--size", default="5M", help="without --like; the rest of the shape by hand:")
    parser.add_argument("--vocab", type=int, default=4096)
    for name in SHAPE:
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float)
    parser.add_argument("--longest", type=int, default=512, help="tokens of a source")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--grouped", action="store_true")
    parser.add_argument("--allocator", action="store_true")
    parser.add_argument("--parts", nargs="+", default=["decide", "test"])
    parser.add_argument("--against", nargs="+", default=[], help="directories with saved answers of ours")
    parser.add_argument("--output", help="a new directory to save the peer's answers in, a directory for each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a toy for three seconds, to see that all of it runs")
    o = parser.parse_args()
    if o.init == "ours" and not o.like:
        parser.error("--init ours needs --like, the model directory that the weights are from")
    if not o.data:
        return print("seq2seq.py needs the data folder: --data DIR, or the environment variable MODELWRIGHT_DATA")
    os.environ["MODELWRIGHT_DATA"] = o.data
    if o.quick:
        o.size, o.vocab, o.minutes = "200k", 512, 0.05
    if o.allocator:
        from modelwright.train.allocator import keep_large_blocks

        keep_large_blocks()
    with tempfile.TemporaryDirectory() as where:
        run(o, where)


if __name__ == "__main__":
    sys.exit(main())
