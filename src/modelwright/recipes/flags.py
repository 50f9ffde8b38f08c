"""A command's flags: from a dataclass, by tyro, with a wrong flag said in one sentence."""

import contextlib
import dataclasses
import io
import re
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

Options = TypeVar("Options")
UNSAID = ("", "''", "False", "True", ".")  # defaults that the flag's own text tells, or that say nothing


def parse(options: type[Options], args: list[str], prog: str) -> Options:
    """Build the dataclass `options` from the words of the command line.

    `--help` prints and leaves (SystemExit 0). A flag that does not exist (the nearest spelling is named), is missing
    or cannot be read raises ValueError in one sentence, where tyro would draw a box of ten lines.
    """
    box, config = io.StringIO(), (tyro.conf.FlagCreatePairsOff,)
    try:
        with contextlib.redirect_stderr(box):
            found: Any = tyro.cli(worded(options), args=args, prog=prog, config=config, registry=READERS)
    except SystemExit as exit:
        if not exit.code:
            raise
        raise ValueError(one_sentence(box.getvalue(), prog)) from None
    return options(**{field.name: getattr(found, field.name) for field in dataclasses.fields(found)})


def worded(options: type[Any]) -> type[Any]:
    """The same dataclass with defaults shown only where they say something: its texts tell what None stands for."""
    hints = get_type_hints(options, include_extras=True)
    shown = tyro.conf.arg(help_behavior_hint=lambda said: "" if said in UNSAID else f"(default: {said})")
    fields: list[tuple[str, Any, Any]] = [
        (f.name, Annotated[hints[f.name], shown], dataclasses.field(default=f.default))
        for f in dataclasses.fields(options)
    ]
    space = {"__doc__": options.__doc__}
    return dataclasses.make_dataclass(options.__name__, fields, bases=(options,), namespace=space, frozen=True)


def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """`int | None` as `int`: to leave a flag out is how None is said, and `--help` shows `INT`."""
    kinds = [kind for kind in get_args(info.type) if kind is not type(None)]
    if len(kinds) != 1 or type(None) not in get_args(info.type):
        return None
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    if not isinstance(inner, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        inner,
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: [] if value is None else inner.str_from_instance(value),
    )


READERS = ConstructorRegistry()
READERS.primitive_rule(optional)


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
