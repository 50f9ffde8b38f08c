"""`modelwright merge ADAPTER --output DIR`: a LoRA taken up by its base, and the proof that nothing changed.

1. open the base with its adapter; 2. merge, in float32; 3. write the model directory, beside its place;
4. open it from the disk and compare it with the unmerged: logits and greedy continuations;
5. put it in its place, or leave nothing where they differ.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from modelwright.adapt.merge import merge_adapter
from modelwright.recipes.flags import parse


@dataclass(frozen=True)
class Options:
    """Merge a LoRA into its base: one plain model directory, proved to say what base and adapter say together."""

    adapter: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]
    """The adapter's directory, as tuning or PEFT wrote it."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """The directory to write the model to; it must not exist."""
    json: bool = False
    """The proofs as one JSON object."""


def main(args: list[str]) -> int:
    o = parse(Options, args, "modelwright merge")
    proofs = merge_adapter(o.adapter, o.output)
    if o.json:
        print(json.dumps({"output": str(o.output), **proofs}))
        return 0
    print(f"{o.output}: read back from the disk, its logits are within {proofs['logits']:.1e} of the unmerged model's "
          f"({proofs['relative']:.1e} of the largest)")  # fmt: skip
    if proofs["prompts"]:
        print(f"{proofs['greedy']} of {proofs['prompts']} greedy continuations are the same, token for token")
    return 0
