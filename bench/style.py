"""LoRA against full fine-tuning for a change of style: what is gained, and what is forgotten for it.

    python bench/style.py [--data DIR] [--steps 300] [--plot docs/style.svg] [--quick]

The model is stories260k, the stories are the data folder's. The task: go on with a story from its first sentence, in
the present tense. The new style is made by rule: each of some sixty past forms becomes the present one ("was" is "is",
"said" is "says"), and nothing else changes, so that a small model can learn it and a rule can count it.

Every run learns from the same stories for the same number of steps (`modelwright tune`'s recipe). Measured on stories
that none learned from, with intervals of 95%:

- gain: how much the loss of their continuations in the new style fell, nats a token;
- style: of the sentences that are written (64 tokens, greedily, after each first sentence), those with present forms
  alone, among those with one of either;
- forgotten: how much the loss of other stories, as they were told first, grew (as tuning reports it).

The end of an answer is <s>: the model never saw </s>, and an adapter beside a frozen head cannot learn to write it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

PRESENT = dict(pair.split() for pair in """was is|were are|had has|said says|went goes|saw sees|did does|could can|
would will|wanted wants|loved loves|liked likes|felt feels|looked looks|asked asks|played plays|knew knows|got gets|
started starts|came comes|made makes|found finds|took takes|ran runs|told tells|thought thinks|gave gives|lived lives|
smiled smiles|decided decides|tried tries|heard hears|helped helps|walked walks|became becomes|jumped jumps|ate eats|
laughed laughs|opened opens|picked picks|thanked thanks|stopped stops|noticed notices|needed needs|climbed climbs|
replied replies|cried cries|learned learns|hugged hugs|kept keeps|fell falls|flew flies|sat sits|stood stands|
left leaves|used uses|called calls|turned turns|realized realizes|shouted shouts|explained explains|agreed agrees|
worked works|happened happens|began begins""".replace("\n", "").split("|"))  # fmt: skip
PAST = re.compile(r"\b(" + "|".join(PRESENT) + r")\b", re.IGNORECASE)
NOW = re.compile(r"\b(" + "|".join(PRESENT.values()) + r")\b", re.IGNORECASE)
SENTENCE = re.compile(r"[^.!?]*[.!?]+[\"”']*\s*")
TOLD = 4  # sentences of a continuation
ALIKE = ("lora 1", "lora 4", "lora 16", "full")


class Run(NamedTuple):
    what: str
    rate: float
    learning: int
    loss: dict[str, float]
    gain: dict[str, float]
    style: dict[str, float]
    forgotten: dict[str, float]


# -- the task ------------------------------------------------------------------------------------


def present(text: str) -> str:
    """The style: each past form of the table in the present, its capital kept."""

    def turned(found: re.Match[str]) -> str:
        now = PRESENT[found[0].lower()]
        return now.capitalize() if found[0][0].isupper() else now

    return PAST.sub(turned, text)


def in_style(text: str) -> tuple[float, float]:
    """Sentences with present forms alone, and sentences with a form of the table at all."""
    told = [bool(PAST.search(s)) for s in SENTENCE.findall(text) if PAST.search(s) or NOW.search(s)]
    return float(told.count(False)), float(len(told))


def prepare(o: argparse.Namespace, where: Path) -> tuple[Path, Path, Path]:
    """A task file, a file of other stories as they are, and the model with <s> for its end."""
    stories = (Path(o.data) / "tinystories-sample/train.txt").read_text("utf-8").split("<|endoftext|>")
    sentences = [[s.strip() for s in SENTENCE.findall(" ".join(story.split()))] for story in stories]
    rows = [{"source": s[0], "target": present(" ".join(s[1 : 1 + TOLD]))} for s in sentences if len(s) > TOLD]
    n = o.held
    for name, some in (("train", rows[2 * n :]), ("test", rows[:n])):
        (where / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), "utf-8")
    (where / "others.txt").write_text("\n<|endoftext|>\n".join(stories[n : 2 * n]), "utf-8")
    task = {
        "kind": "generate", "decoding": {"max_new": 160},
        "data": {"train": "train.jsonl", "test": "test.jsonl", "split": {"train": 1, "select": 0, "decide": 0}},
    }  # fmt: skip
    (where / "task.yaml").write_text(json.dumps(task))  # JSON is YAML
    base = where / "base"
    shutil.copytree(Path(o.data) / "stories260k", base, copy_function=shutil.copyfile)
    base.chmod(0o755)
    for name, said in (
        ("tokenizer_config.json", {"eos_token": "<s>"}),
        ("generation_config.json", {"eos_token_id": 1}),
    ):
        (base / name).write_text(json.dumps(json.loads((base / name).read_text()) | said))
    return where / "task.yaml", where / "others.txt", base


# -- what a model is worth -----------------------------------------------------------------------


def look(model: Path, task_file: Path, written: int) -> tuple[list[Any], Any]:
    """The loss of each continuation in the new style, and the style of what the model writes (n, 2)."""
    import numpy as np

    from modelwright.adapt.open import open_model
    from modelwright.data.kind import Decoding
    from modelwright.data.task import prepare, read_task
    from modelwright.evaluate.scorer import ModelScorer, Rolling
    from modelwright.recipes.evaluate import prompter_of

    task, parts = prepare(read_task(task_file))
    lm = open_model(model)
    scorer, prompter = ModelScorer(lm), prompter_of(task, lm)
    prompts = [prompter.prompt(example) for example in parts["test"]]
    answers = [prompter.completion(example) for example in parts["test"]]
    losses = [Rolling(found.logp, found.tokens, 1.0) for found in scorer.loglikelihood(prompts, answers)]
    texts = scorer.generate(prompts, Decoding(max_new=written), seed=0, ends=(prompter.end,))
    return losses, np.array([in_style(done.text) for done in texts])


def judged(before: tuple[list[Any], Any], after: tuple[list[Any], Any]) -> dict[str, dict[str, float]]:
    from modelwright.evaluate.forgetting import grown
    from modelwright.evaluate.metrics import Metric, amounts, ratio, ratio_extremes
    from modelwright.evaluate.statistics import interval

    share = Metric("style", frozenset(), True, amounts, ratio, ratio_extremes)
    fell = grown(after[0], before[0])  # from after to before: what was lost of the loss
    return {"loss": vars(fell.before), "gain": vars(fell.difference), "style": vars(interval(after[1], share))}


def trained(o: argparse.Namespace, where: Path, files: tuple[Path, Path, Path], what: str, rate: float) -> Any:
    from modelwright.recipes.tune import tune
    from modelwright.recipes.tuning import Tune
    from modelwright.recipes.watch import Screen

    task, others, base = files
    method, _, rank = what.partition(" ")
    output = where / f"{method}{rank}-{rate:g}"
    output.mkdir()
    args = Tune(
        str(base), task, "full" if method == "full" else "lora", output, steps=o.steps, rate=rate, tests=1, seed=o.seed,
        rank=int(rank or 8), alpha=2.0 * int(rank or 8), general=(str(others),), truncated=1.0, overlap=1.0,
    )  # fmt: skip
    return tune(args, Screen(quiet=True))


def plot(runs: Sequence[Run], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for what, mark in zip(ALIKE, "o^sD", strict=True):
        some = [run for run in runs if run.what == what]
        axes.plot(
            [r.forgotten["value"] for r in some], [r.gain["value"] for r in some], f"{mark}-", label=what, alpha=0.8
        )
        for r in some:
            axes.annotate(
                f"{r.rate:g}", (r.forgotten["value"], r.gain["value"]), (4, 4), textcoords="offset points", size=7
            )
    axes.set(xlabel="forgotten: loss on stories as they were, nats a token more",
             ylabel="gained: loss in the new style, nats a token less")  # fmt: skip
    axes.legend(title="each at several rates", frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path)


def run(o: argparse.Namespace, where: Path) -> None:
    from modelwright.recipes.results import told

    files = prepare(o, where)
    before = look(files[2], files[0], o.written)
    base, runs = judged(before, before), list[Run]()
    print("| what learned | rate | parameters | loss, new style | gain | style | forgotten |")
    print("|---|---|---|---|---|---|---|")
    print(f"| nothing | | | {told(base['loss'])} | | {told(base['style'])} | |", flush=True)
    for what in ALIKE:
        for rate in o.full if what == "full" else o.lora:
            came = trained(o, where, files, what, rate)
            found = judged(before, look(Path(came["model"]), files[0], o.written))
            lost = came["forgetting"]["difference"]
            runs.append(
                Run(what, rate, came["predicted"]["learning"], found["loss"], found["gain"], found["style"], lost)
            )
            numbers = " | ".join(told(one) for one in runs[-1][3:])
            print(f"| {what} | {rate:g} | {runs[-1].learning:,} | {numbers} |", flush=True)
    if o.plot:
        plot(runs, o.plot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("MODELWRIGHT_DATA"), help="the data folder")
    parser.add_argument("--steps", type=int, default=300, help="of 16 stories")
    parser.add_argument("--lora", nargs="+", type=float, default=[0.003, 0.015], help="its rates")
    parser.add_argument("--full", nargs="+", type=float, default=[0.0002, 0.0005, 0.0015, 0.005], help="its rates")
    parser.add_argument("--held", type=int, default=150, help="stories to measure the gain on, and as many others")
    parser.add_argument("--written", type=int, default=64, help="tokens that are written of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", help="a file to draw gain against forgetting in: .svg or .png; needs matplotlib")
    parser.add_argument("--quick", action="store_true", help="three steps, to see that it runs")
    o = parser.parse_args()
    if not o.data:
        return print("style.py needs the data folder: --data DIR, or the environment variable MODELWRIGHT_DATA")
    if o.quick:
        o.steps, o.held, o.written, o.lora, o.full = 3, 8, 16, [0.015], [0.0015]
    with tempfile.TemporaryDirectory() as where:
        run(o, Path(where))


if __name__ == "__main__":
    main()
