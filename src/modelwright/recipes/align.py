"""`modelwright align WHAT ...`: each way to align is a recipe of its own."""

from __future__ import annotations

from modelwright.recipes import dpo, reward

WAYS = {
    "reward": (reward.main, "fit a reward model to preferences"),
    "dpo": (dpo.main, "align a model with preferences directly"),
}
LINES = "".join(f"  {name:<8} {line}\n" for name, (_, line) in WAYS.items())
HELP = f"usage: modelwright align {{{','.join(WAYS)}}} ...\n\n{LINES}"


def main(argv: list[str]) -> int:
    """Raises ValueError where no way is named."""
    if argv and argv[0] in WAYS:
        return WAYS[argv[0]][0](argv[1:])
    if argv and argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    said = f"not {argv[0]!r}" if argv else "for instance: modelwright align dpo MODEL --pairs FILE"
    raise ValueError(f"say how to align, {' or '.join(WAYS)}, {said}")
