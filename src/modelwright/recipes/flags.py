"""A command's flags: from a dataclass, by tyro, with a wrong flag said in one sentence."""

import contextlib
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
    """tyro's box without its frame, its repeated help and its line breaks.

    >>> one_sentence("│ Unrecognized options: --szie │\\n│ ─── │\\n│ Perhaps you meant: │\\n│  --size INT │", "prog")
    'Unrecognized options: --szie; perhaps you meant --size; see prog --help'
    """
    parts = [" ".join(part.split()) for part in re.split("─{3,}", re.sub("[│╭╮╰╯]", " ", box))]
    parts = [part for part in parts if part]
    if len(parts) > 1 and not re.search(r"[:.']", parts[0]):
        del parts[0]  # the title in the frame, which the first line says again
    said = parts[0].rstrip(".") if parts else "the flags could not be read"
    flags = [flag for part in parts if "erhaps you meant" in part for flag in re.findall(r"(?<!\S)--[\w-]+", part)]
    near = f"; perhaps you meant {' or '.join(dict.fromkeys(flags))}" if flags else ""
    return f"{said}{near}; see {prog} --help"
