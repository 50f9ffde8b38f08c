"""Direct preference optimisation: a policy learns from pairs alone, without a reward model (Rafailov et al. 2023).

    1. pairs        in three parts by their prompts
    2. a policy     and its reference: itself with its adapters silent, or a frozen copy where all of it learns
    3. rows         the answers of a ranking as segments of one row; the answer and its end alone count
    4. a plan       steps, memory and time
    5. training     -log sigmoid(beta (log-ratio of the chosen - log-ratio of the rejected)); log 2 before step one
    6. what came    the best moment; accuracy on pairs kept apart; what was forgotten of general text

Left out: a second loss on the chosen answers, other losses than sigmoid, ipo and hinge, references of another model.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch import Tensor, nn

from modelwright.adapt.lora import Reference, reference_of
from modelwright.data.kind import Task
from modelwright.data.pack import Batch
from modelwright.data.pairs import Write, answers_of
from modelwright.data.prompt import starts
from modelwright.evaluate.forgetting import grown
from modelwright.hub.open import LanguageModel
from modelwright.losses.preference import Kind, answer_logps, direct_preference
from modelwright.recipes.methods import speaking
from modelwright.recipes.preferring import Prefer, command, get_paired, keep, learn, tested
from modelwright.recipes.tune import general_text, loss_on
from modelwright.recipes.watch import Screen


@dataclasses.dataclass(frozen=True)
class Dpo(Prefer):
    """Align a model with preferences directly, by DPO."""

    gentle: ClassVar[float] = 0.1
    beta: float = 0.1
    """How dearly the policy pays for leaving its reference: the smaller, the further it goes."""
    loss: Kind = "sigmoid"
    """sigmoid: DPO; ipo: towards a margin of 1 / (2 beta) and no more; hinge: nothing beyond a margin of 1 / beta."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"--beta must be above 0, not {self.beta}")


def dpo(args: Dpo, screen: Screen) -> dict[str, Any]:
    # 1. pairs, 2. a policy and its reference, 3. rows
    ready = get_paired(args, rows_for, lambda lm: lm.model)
    reference = reference_of(ready.lm.model)
    # 4. a plan, 5. training
    texts, named = general_text(args)
    before = loss_on(ready.base, texts)
    loss = direct_preference(reference, args.beta, args.loss)
    found, actual = learn(args, ready, loss, implicit_reward(reference, args), screen)
    if actual is None:
        return {"predicted": dataclasses.asdict(found)}
    # 6. what came of it
    result = tested(ready, implicit_reward(reference, args))
    lost = {
        **named,
        **dataclasses.asdict(grown(before, loss_on(speaking(ready.lm, ready.base), texts), seed=args.seed)),
    }
    came = {"preferences": dataclasses.asdict(result), "forgetting": lost}
    return keep(args, ready, found, actual, came, {"by": "dpo", "beta": args.beta, "loss": args.loss})


def rows_for(task: Task, lm: LanguageModel) -> Write:
    cfg = lm.model.cfg
    if cfg.shape == "encoder" or cfg.labels:
        raise ValueError("an encoder writes nothing, so there is no policy to align: take a decoder")
    context = (cfg.encoder or cfg).context
    return answers_of(task, lm.tokenizer, cfg.shape, context, starts(lm.generation))


def implicit_reward(reference: Reference, args: Dpo) -> Any:
    """beta log(policy / reference) of each answer (Rafailov et al. 2023, eq. 5, less what is the prompt's alone)."""

    def score(policy: nn.Module, batch: Batch) -> Tensor:
        now = answer_logps(policy, batch, args.loss)
        with reference() as silent:
            return args.beta * (now - answer_logps(silent, batch, args.loss))

    return score


def main(argv: list[str]) -> int:
    """`modelwright align dpo`."""
    return command(Dpo, argv, "dpo", dpo)
