"""A command's flags: from a dataclass, by tyro, with a wrong flag said in one sentence."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable
from typing import TypeVar

import tyro

Options = TypeVar("Options")


def parse(options: Callable[..., Options], args: list[str], prog: str) -> Options:
    """Build the dataclass `options` from the words of the command line.

    `--help` prints and leaves (SystemExit 0). A flag that does not exist (the nearest spelling is named), is missing
    or cannot be read raises ValueError in one sentence, where tyro would draw a box of ten lines.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(options, args=args, prog=prog)
    except SystemExit as exit:
        if not exit.code:
            raise
        raise ValueError(one_sentence(box.getvalue(), prog)) from None


def one_sentence(box: str, prog: str) -> str:
    r"""What tyro's box says first, and the flags it suggests, without frame, help and line breaks.

    >>> one_sentence("╭─ Oh ─╮\n│ No such option: --szie │\n│ ─── │\n│ Perhaps you meant: │\n│ --size │\n╰──╯", "x")
    'No such option: --szie; perhaps you meant --size; see x --help'
    """
    framed = [line for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    text = "\n".join(line.strip("│ ") for line in framed)
    parts = [" ".join(part.split()) for part in re.split(r"^[─-]{3,}$", text, flags=re.MULTILINE)]
    if "╭" not in box and len(parts) > 1:
        del parts[0]  # where the output is not UTF-8 there is no frame, and a rule under the title
    near = [flag for part in parts if "erhaps you meant" in part for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", part)]
    guess = f"; perhaps you meant {' or '.join(dict.fromkeys(near))}" if near else ""
    return f"{parts[0].rstrip('.') or 'the flags could not be read'}{guess}; see {prog} --help"


def as_keys(sentence: str, options: type, before: str = "") -> str:
    """A sentence that names settings as the command line has them, with the keys that a file has for these.

    What only looks like a flag, in a file's name or a label, stays as it is.

    >>> as_keys("--rank must be above 0: see a--rank.md", Tune, "tune.")
    'tune.rank must be above 0: see a--rank.md'
    """
    keys = {field.name.replace("_", "-"): before + field.name for field in dataclasses.fields(options)}
    return re.sub(rf"(?<![^\s(])--({'|'.join(keys)})(?![\w-])", lambda found: keys[found[1]], sentence)
