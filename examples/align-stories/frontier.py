"""What a model was given for its reward: judges' means and the KL from the base, over answers to prompts kept apart.

python frontier.py rank MODEL -o rankings.jsonl            answers of MODEL, ranked by the judge
python frontier.py look BASE ALIGNED [...] -o look.json    a line for each: reward, gold, KL, and what was forgotten
python frontier.py plot look.json [...] -o frontier.svg    reward against KL, of what looks have saved
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelwright.adapt.lora import merged_copy
from modelwright.adapt.open import open_model, prompter_of
from modelwright.data.examples import Example
from modelwright.data.pairs import conversation_task
from modelwright.data.prompt import Prompter
from modelwright.hub.open import LanguageModel
from modelwright.recipes.prompts import apart, prompts_of
from modelwright.train.rollout import Answer, Reader, batch_of, write

HERE = Path(__file__).parent
sys.path.append(str(HERE))
from judge import glad, tells  # noqa: E402

TOLD = ("reward", "gold", "kl", "forgot")
TASK = replace(conversation_task(), decoding=replace(conversation_task().decoding, max_new=64))


def answers(lm: LanguageModel, examples: Sequence[Example], count: int, seed: int) -> tuple[list[Answer], Prompter]:
    prompter = prompter_of(TASK, lm)
    return write(merged_copy(lm.model), prompter, examples, seed=seed, count=count), prompter


def rank(model: str, output: Path, count: int, seed: int) -> None:
    """A ranking of some answers to each prompt that is not kept apart."""
    train, _, _ = apart(prompts_of(str(HERE / "prompts.txt")), seed)
    said, _ = answers(open_model(model), train, count, seed)
    with output.open("w") as file:
        for at, example in enumerate(train):
            own = said[at * count : (at + 1) * count]
            prompt = example.fields["messages"][0]["content"]
            scores = [glad(prompt, answer.text) for answer in own]
            ranks = [1 + sum(other > score for other in scores) for score in scores]
            texts = [answer.text for answer in own]
            if len(set(ranks)) > 1:
                file.write(json.dumps({"prompt": prompt, "completions": texts, "ranks": ranks}) + "\n")


def look(base: str, models: Sequence[str], output: Path, count: int, seed: int) -> None:
    """The price, beside KL, is what a run says was forgotten: nats a token on the text that --general named."""
    _, _, held = apart(prompts_of(str(HERE / "prompts.txt")), seed)
    plain, reader, rows = open_model(base), Reader(), []
    print(f"{'model':40} reward  gold    KL  forgot  (means over {len(held)} prompts, {count} answers each)")
    for name in [base, *models]:
        lm = open_model(name)
        said, prompter = answers(lm, held, count, seed)
        batch = batch_of(said, prompter)
        (own,), (before,) = reader(merged_copy(lm.model), batch), reader(plain.model, batch)
        gap = ((own - before) * batch.weight).sum(1).tolist()
        scores = [[judge(a.prompt.text, a.text) for a in said] for judge in (glad, tells)]
        numbers = [statistics.fmean(each) for each in (*scores, gap)] + [forgotten(Path(name).parent / "plan.json")]
        rows.append({"model": Path(name).parent.name, **dict(zip(TOLD, numbers, strict=True))})
        print(f"{name:40} {numbers[0]:6.3f} {numbers[1]:5.2f} {numbers[2]:6.2f} {numbers[3]:+7.3f}")
    output.write_text(json.dumps(rows, indent=1) + "\n")


def forgotten(plan: Path) -> float:
    return float(json.loads(plan.read_text())["forgetting"]["difference"]["value"]) if plan.is_file() else 0.0


def plot(looks: Sequence[str], output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for path in looks for row in json.loads(Path(path).read_text())]
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for by, mark in (("ppo", "o"), ("dpo", "s")):
        for beta, shade in (("0.3", 0.4), ("0.1", 0.6), ("0.03", 0.8), ("0.01", 1.0)):
            some = [row for row in rows if row["model"].startswith(f"{by}-{beta}-")]
            if some:
                axes.plot([row["kl"] for row in some], [row["reward"] for row in some], mark, alpha=shade,
                          color={"ppo": "C0", "dpo": "C1"}[by], label=f"{by.upper()}, beta {beta}")  # fmt: skip
    axes.set(xscale="log", xlabel="KL from the base, nats a story (log scale)", ylabel="reward")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("rank", "look", "plot"))
    parser.add_argument("models", nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    if o.what == "rank":
        rank(o.models[0], o.output, o.count, o.seed)
    elif o.what == "look":
        look(o.models[0], o.models[1:], o.output, o.count, o.seed)
    else:
        plot(o.models, o.output)


if __name__ == "__main__":
    main()
