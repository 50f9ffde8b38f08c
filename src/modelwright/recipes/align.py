"""`modelwright align WHAT ...`: each way to align is a recipe of its own."""

from __future__ import annotations

from modelwright.recipes import dpo, grpo, ppo, reward

WAYS = {
    "reward": (reward.main, "fit a reward model to preferences"),
    "dpo": (dpo.main, "align a model with preferences directly"),
    "ppo": (ppo.main, "align a model with a reward, kept near where it began"),
    "grpo": (grpo.main, "align a model with a reward, by groups of answers"),
}
LINES = "".join(f"  {name:<8} {line}\n" for name, (_, line) in WAYS.items())
HELP = f"""usage: modelwright align {{{",".join(WAYS)}}} MODEL [OPTIONS]

Align a model with what people prefer, or with a reward.

{LINES}
modelwright align WAY --help lists the options of each.
"""


def main(argv: list[str]) -> int:
    """Raises ValueError where no way is named."""
    if argv and argv[0] in WAYS:
        return WAYS[argv[0]][0](argv[1:])
    if argv and argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    said = f"not {argv[0]!r}" if argv else "for instance: modelwright align dpo MODEL --pairs FILE"
    raise ValueError(f"say how to align, {', '.join(list(WAYS)[:-1])} or {list(WAYS)[-1]}, {said}")
