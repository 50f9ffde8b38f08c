"""What a model was given for its reward: judges' means and the KL from the base, over answers to prompts kept apart.

python examples/align-stories/frontier.py rank MODEL -o rankings.jsonl        answers of MODEL, ranked by the judge
python examples/align-stories/frontier.py look BASE ALIGNED [ALIGNED ...]     a line for each: reward, gold, KL
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


def look(base: str, models: Sequence[str], count: int, seed: int) -> None:
    _, _, held = apart(prompts_of(str(HERE / "prompts.txt")), seed)
    plain, reader = open_model(base), Reader()
    print(f"{'model':40} reward  gold    KL  (means over {len(held)} prompts, {count} answers each)")
    for name in models:
        lm = open_model(name)
        said, prompter = answers(lm, held, count, seed)
        batch = batch_of(said, prompter)
        (own,), (before,) = reader(merged_copy(lm.model), batch), reader(plain.model, batch)
        gap = ((own - before) * batch.weight).sum(1).tolist()
        scores = [[judge(a.prompt.text, a.text) for a in said] for judge in (glad, tells)]
        reward, gold, far = (statistics.fmean(numbers) for numbers in (*scores, gap))
        print(f"{name:40} {reward:6.3f} {gold:5.2f} {far:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("rank", "look"))
    parser.add_argument("models", nargs="+")
    parser.add_argument("-o", "--output", type=Path, default=Path("rankings.jsonl"))
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    if o.what == "rank":
        rank(o.models[0], o.output, o.count, o.seed)
    else:
        look(o.models[0], o.models, o.count, o.seed)


if __name__ == "__main__":
    main()
