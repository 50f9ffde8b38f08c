"""Jinja2 templates in a sandbox: what a task's prompts, and a tokenizer's chat template, are written in.

A template may come with a model from anywhere. It sees the values it is given and nothing else, changes none of
them, and writes no more than `LIMIT` characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

LIMIT = 1 << 22  # characters that a template may write
BEYOND = re.compile("[^\x00-\x7f\ue000-\uf8ff]")  # what ASCII has not, but for characters of private use


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's own sandbox, where also `*` and `**` make nothing too large to hold."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) for side in (left, right) if isinstance(side, Sequence)]
        times = [side for side in (left, right) if isinstance(side, int)]
        if operator == "**" and any(abs(side) > 1000 for side in times):
            raise SecurityError(f"{left} ** {right} is too large")
        if sizes and times and sizes[0] * times[0] > LIMIT:
            raise SecurityError(f"a text of {sizes[0] * times[0]} characters is too long")
        return super().call_binop(context, operator, left, right)


class Generation(Extension):
    """`{% generation %}` marks what an assistant says, for those who mask by it; it renders as what stands in it."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Macro) -> str:
        return caller()


def _environment(undefined: type[jinja2.Undefined]) -> Sandbox:
    """Blocks leave no line behind, as in every chat template that is published."""
    extensions: list[str | type[Extension]] = [Generation, loopcontrols]
    made = Sandbox(trim_blocks=True, lstrip_blocks=True, undefined=undefined, extensions=extensions)
    made.filters["tojson"] = _tojson
    made.globals |= {"raise_exception": _raise, "strftime_now": _now}
    return made


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja2's own filter writes it for HTML, with < as \\u003c.

    Also in ASCII, characters of private use stay as they are: `chat` marks by them what is not to mean a special token.
    """
    said = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    return BEYOND.sub(lambda found: json.dumps(found[0])[1:-1], said) if ensure_ascii else said


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


STRICT = _environment(jinja2.StrictUndefined)  # a task's prompts: a name that nothing stands for is a fault
LENIENT = _environment(jinja2.Undefined)  # chat templates, which ask `if tools` of what nobody passed


@lru_cache(maxsize=256)
def compiled(template: str, *, strict: bool = True) -> jinja2.Template:
    """Raises jinja2.TemplateSyntaxError."""
    return (STRICT if strict else LENIENT).from_string(template)


@lru_cache(maxsize=256)
def variables(template: str) -> frozenset[str]:
    """The names that a template asks for."""
    return frozenset(meta.find_undeclared_variables(STRICT.parse(template)))


def render(template: str, values: Mapping[str, Any], *, strict: bool = True) -> str:
    """The text of a template. Raises jinja2.TemplateError for what it cannot do, or may not."""
    pieces: list[str] = []
    size = 0
    for piece in compiled(template, strict=strict).generate(values):
        pieces.append(piece)
        size += len(piece)
        if size > LIMIT:
            raise SecurityError(f"the text is longer than {LIMIT} characters")
    return "".join(pieces)
