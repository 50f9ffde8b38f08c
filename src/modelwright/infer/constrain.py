"""Text that is JSON by construction: of all tokens, only those with which it still can be are left to draw from.

A schema becomes a grammar, which llguidance follows byte by byte; which tokens begin with bytes that may come next it
finds in a trie of the vocabulary (Willard and Louf 2023, Geng et al. 2023). What is drawn is then the model's own
distribution over the tokens that are left.

V vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import isfinite, lcm
from typing import Any, NamedTuple
from urllib.parse import unquote
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from modelwright.data.tokenizer import Tokenizer

try:
    import llguidance
except ImportError:  # an extra: only constrained requests need it
    llguidance = None  # type: ignore[assignment]

SIZE = 100_000  # characters of all the schemas of a request
DEPTH = 48  # schemas within schemas
PATTERN = 1_000  # characters of a regular expression
MET = 8  # patterns and formats that hold for one text
PAIRS = 5_000  # patterns of names, squared, by the schemas where they could be joined
VALUES = 10_000  # of enum, beside patterns
MULTIPLE = 10_000  # least common multiple of all multipleOf: 0.1 s at most, where 10 million take minutes
TOOLS, CALLS = 128, 16  # that are offered at most; that one answer makes at most

# What the grammar keeps to. Any other keyword it would pass over in silence: it is refused.
FOLLOWED = {
    "type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref",
    "properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties",
    "items", "prefixItems", "additionalItems", "minItems", "maxItems",
    "minLength", "maxLength", "pattern", "format",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
}  # fmt: skip
# What says nothing of which values are valid.
ANNOTATIONS = {
    "$schema", "$id", "$anchor", "$defs", "definitions", "$comment", "title", "description", "default", "examples",
    "deprecated", "readOnly", "writeOnly", "discriminator", "contentMediaType", "contentEncoding",
}  # fmt: skip
WITHIN = {"items", "additionalItems", "additionalProperties", "anyOf", "oneOf", "allOf", "prefixItems"}  # schemas
NAMES = ("properties", "patternProperties")
NAMED = {"properties", "patternProperties", "$defs", "definitions"}  # names -> schemas

# A model can write spaces for ever: between two things there is one, or a line break and an indent. And a character has
# one spelling: "\u0061" would be a second key "a", which no property's schema looks at.
SPELLING = {"whitespace_pattern": r" |\n{1,2}[ \t]{0,20}", "json_allowed_escapes": 'nrbtf\\"'}


class Constraint:
    """The state of one text under a grammar: an `infer.engine.Grammar`.

    `fault` says why nothing more can be written where the text is not complete: its schema led to where no value is, or
    to more work than a token may cost. Such a text ends as it stands, so whoever takes a text for valid looks here.
    """

    def __init__(self, tokenizer: Tokenizer, grammar: str, ends: Collection[int] | None = None) -> None:
        """grammar: in llguidance's Lark. ends: the tokens that end a text; None: the tokenizer's EOS."""
        self.ends = ends_of(tokenizer, ends)
        self.ended = torch.zeros(tokenizer.vocab, dtype=torch.bool)
        self.ended[list(self.ends)] = True
        limits = llguidance.LLParserLimits(verbose_errors=False)
        self.matcher = llguidance.LLMatcher(known(tokenizer, self.ends), grammar, limits=limits, log_level=0)
        self.fault = self.found()
        self.allowed()
        if self.fault:
            raise ValueError(f"the schema cannot be followed: {self.fault}")
        self.initial = self.matcher.deep_copy()

    def fresh(self) -> Constraint:
        """Another text under the same grammar, from its beginning: what was compiled is shared."""
        made = copy(self)
        made.matcher, made.fault = self.initial.deep_copy(), None
        return made

    def allowed(self) -> Tensor:
        """Which tokens may come next, (V) bool. Those that end a text only where it is complete, and they alone where
        nothing can follow."""
        if self.fault is None:
            bits = self.matcher.compute_bitmask()
            self.fault = self.found()
            if self.fault is None and any(bits):
                free = np.unpackbits(np.frombuffer(bits, np.uint8), count=len(self.ended), bitorder="little")
                return torch.from_numpy(free.view(np.bool_))
            self.fault = self.fault or "no token spells what would have to come next"
        return self.ended

    def take(self, token: int) -> None:
        if token not in self.ends and self.fault is None:
            self.matcher.consume_token(token)

    def found(self) -> str | None:
        """What llguidance says has gone wrong, in one line."""
        said = self.matcher.get_error() or "; ".join(self.matcher.get_grammar_warnings())
        if said.startswith("NoExtension"):
            return "it leads to where no value is valid"
        said = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", said)
        said = re.split(r"\n *\d+ \||\n<|Enable ", said)[0]
        return " ".join(said.split())[:300] or None


def json_grammar(
    tokenizer: Tokenizer, schema: Mapping[str, Any] | None = None, ends: Collection[int] | None = None
) -> Constraint:
    """A grammar of the JSON texts that are valid by a schema; None: of any JSON object.

    Properties come in the schema's order, those that it does not name after them. `format` is kept to.
    Raises ValueError for a schema that is too large, for a keyword that is not followed, naming it, and for a tokenizer
    that cannot spell JSON.
    """
    return Constraint(tokenizer, f"{HEAD}start: {grammar_of({'type': 'object'} if schema is None else schema)}", ends)


# -- schemas -------------------------------------------------------------------------------------

HEAD = '%llguidance {"no_forcing": true}\n'  # any tokens that spell the text, not only those of its usual spelling


def grammar_of(schema: Mapping[str, Any], where: str = "the schema") -> str:
    """The schema as a term of a grammar in Lark, checked."""
    if not isinstance(schema, Mapping):
        raise ValueError(f"{where} must be a JSON object, not {schema!r:.40}")
    try:
        check(schema, where)
        check_multiples(schema, where)
        check_work(weigh(schema, schema, {}), where)
        text = json.dumps({**schema, "x-guidance": SPELLING}, allow_nan=False)
    except (RecursionError, TypeError) as error:
        raise ValueError(f"{where} is no JSON that can be written: {error}") from None
    if len(text) > SIZE:
        raise ValueError(f"{where} has {len(text):,} characters, and at most {SIZE:,} are followed")
    return f"%json {text}"


def check(schema: object, where: str, depth: int = 0) -> None:
    """Raises ValueError for what would not be kept to, or would take too long."""
    if depth > DEPTH:
        raise ValueError(f"{where} is nested more than {DEPTH} schemas deep")
    if not isinstance(schema, Mapping):
        return  # true, false, or what llguidance refuses
    if unknown := [keyword for keyword in schema if keyword not in FOLLOWED | ANNOTATIONS]:
        raise ValueError(f"{where} has the keyword {unknown[0]!r}, which is not supported")
    check_values(schema, where)
    for name, inner in parts(schema):
        check(inner, f"{where}, {name}", depth + 1)


def check_values(schema: Mapping[str, Any], where: str) -> None:
    """Raises ValueError where a keyword is followed, but not for this value."""
    if len(str(schema.get("pattern", ""))) > PATTERN:
        raise ValueError(f"{where} has a pattern of more than {PATTERN:,} characters")
    if not str(schema.get("$ref", "#")).startswith("#"):
        raise ValueError(f"{where} has a $ref to {schema['$ref']!r}: only those within the schema (#/$defs/...) work")
    required, least, unit = (schema.get(name) for name in ("required", "minProperties", "multipleOf"))
    named = len(required) if isinstance(required, list) else 0
    if isinstance(least, int) and least > named + 1:  # names that the schema does not say could be the same
        raise ValueError(f"{where} has minProperties {least}, which is supported up to one more than is required")
    if isinstance(unit, float) and Decimal(unit) != Decimal(str(unit)):  # 1.12 is no multiple of 0.01 to a validator
        raise ValueError(f"{where} has multipleOf {unit}: only what is exact in binary is supported, as 0.5 is")


def check_multiples(schema: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for units whose remainders are too many to follow: where several hold for one number, there are
    as many as their least common multiple; which do is not looked into."""
    units = [Fraction(inner["multipleOf"]) for inner in every(schema) if number(inner.get("multipleOf"))]
    tenths = max((unit.denominator.bit_length() - 1 for unit in units), default=0)  # decimals: 1/2^n has n of them
    if lcm(*(int(unit * 10**tenths) for unit in units)) > MULTIPLE:
        raise ValueError(
            f"{where} has multipleOf with a least common multiple, in units of the last decimal, of over {MULTIPLE:,}"
        )


class Work(NamedTuple):
    """What compiling a schema takes, each $ref counted wherever it stands."""

    met: int = 0  # patterns and formats that can hold for one text: a product of automata
    names: int = 0  # patterns of names, which are compared in pairs wherever schemas are joined
    values: int = 0  # of enum, which are matched with the patterns that hold for them
    schemas: int = 1


def weigh(schema: object, root: Mapping[str, Any], known: dict[str, Work]) -> Work:
    """known: what was found for each $ref. One that leads back to itself adds nothing the second time."""
    if not isinstance(schema, Mapping):
        return Work()
    found = {keyword: [weigh(one, root, known) for one in inside(schema, keyword)] for keyword in (*WITHIN, *NAMES)}
    ref = schema.get("$ref")
    if isinstance(ref, str):
        if ref not in known:
            known[ref] = Work()
            known[ref] = weigh(pointed(root, ref), root, known)
        found["allOf"].append(known[ref])
    values = len(schema["enum"]) if isinstance(schema.get("enum"), list) else 0
    every_ = [work for works in found.values() for work in works]
    return Work(
        met(schema, found),
        len(found["patternProperties"]) + sum(work.names for work in every_),
        values + sum(work.values for work in every_),
        1 + sum(work.schemas for work in every_),
    )


def met(schema: Mapping[str, Any], found: Mapping[str, Sequence[Work]]) -> int:
    """Of this value or of one within it, whichever has more; those of allOf and of an alternative hold beside."""
    most = {keyword: max((work.met for work in works), default=0) for keyword, works in found.items()}
    own = ("pattern" in schema) + ("format" in schema)
    deeper = [most[keyword] for keyword in ("items", "prefixItems", "additionalItems", "additionalProperties")]
    deeper.append(most["properties"] + most["patternProperties"])
    return max(own, *deeper) + sum(work.met for work in found["allOf"]) + most["anyOf"] + most["oneOf"]


def inside(schema: Mapping[str, Any], keyword: str) -> list[object]:
    value = schema.get(keyword)
    if keyword in NAMES:
        return list(value.values()) if isinstance(value, Mapping) else []
    return value if isinstance(value, list) else [value] if value is not None else []


def pointed(root: Mapping[str, Any], ref: str) -> object:
    """What a $ref within a schema points to; None where it is nothing."""
    found: object = root
    for step in unquote(ref).split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def check_work(work: Work, where: str) -> None:
    """Raises ValueError for what could take more than about a second to compile."""
    if work.met > MET:
        raise ValueError(f"{where} may hold one text to {work.met} patterns and formats at once: {MET} at most")
    if work.names > 1 and work.names**2 * work.schemas > PAIRS:
        raise ValueError(
            f"{where} has {work.names} patternProperties in {work.schemas} schemas: too many to tell apart"
        )
    if work.met and work.values > VALUES:
        raise ValueError(f"{where} has {work.values:,} values of enum beside a pattern: {VALUES:,} at most")


def number(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and isfinite(value))


def every(schema: object) -> Iterator[Mapping[str, Any]]:
    """A schema, and all within it."""
    if isinstance(schema, Mapping):
        yield schema
        for _, inner in parts(schema):
            yield from every(inner)


def parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """The schemas that a schema is made of, each with its place."""
    for keyword, value in schema.items():
        if keyword in NAMED and isinstance(value, Mapping):
            yield from ((f"{keyword} {name!r}", inner) for name, inner in value.items())
        elif keyword in WITHIN:
            several = value if isinstance(value, list) else [value]
            yield from ((keyword, inner) for inner in several)


# -- calls of tools ------------------------------------------------------------------------------


def tool_grammar(
    tokenizer: Tokenizer,
    tools: Sequence[Mapping[str, Any]],
    choice: str | Mapping[str, Any] = "auto",
    parallel: bool = True,
    ends: Collection[int] | None = None,
) -> Constraint:
    """A grammar of calls: {"name": one of the tools, "arguments": an object that is valid by the tool's schema}.

    tools: [{"type": "function", "function": {"name", "parameters"}}, ...]. choice: "required"; "auto", where the text
    may also be anything that does not begin with "{"; or one tool, {"type": "function", "function": {"name"}}.
    parallel: up to 16 calls, each on a line of its own. `serve.reply.calls_of` reads them. Raises ValueError
    as `json_grammar`, and for a tool or a choice that is none.
    """
    functions = offered(tools)
    if isinstance(choice, Mapping):
        functions, choice = [chosen(functions, choice)], "required"
    if choice not in ("auto", "required"):
        raise ValueError(f"tool_choice must be auto, required or a function for calls to be written, not {choice!r}")
    rules = [
        f"call_{at}: {json.dumps(begun(name))} {schema} {json.dumps('}')}"
        for at, (name, schema) in enumerate(functions)
    ]
    if sum(map(len, rules)) > SIZE:
        raise ValueError(f"the tools have more than the {SIZE:,} characters of schemas that are followed")
    one = "call: " + " | ".join(f"call_{at}" for at in range(len(functions)))
    start = "start: call" + parallel * f' ("\\n" call){{0,{CALLS - 1}}}'
    text = [" | OTHER", r"OTHER: /([^{](.|\n)*)?/"] if choice == "auto" else ["", ""]
    return Constraint(tokenizer, HEAD + "\n".join([start + text[0], text[1], one, *rules]), ends)


def begun(name: str) -> str:
    """What a call begins with, up to its arguments."""
    return f'{{"name": "{name}", "arguments": '


def offered(tools: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each tool's name, and the grammar of its arguments."""
    if not tools or len(tools) > TOOLS:
        raise ValueError(f"there must be 1 to {TOOLS} tools, not {len(tools)}")
    found: dict[str, str] = {}
    for at, tool in enumerate(tools):
        function = named(tool)
        name = function.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) or name in found:
            raise ValueError(
                f"tools[{at}] needs a function with a name of its own, of 1 to 64 of a-z, A-Z, 0-9, _ and -"
            )
        schema = function.get("parameters")
        none = {"properties": {}, "additionalProperties": False}
        where = f"the parameters of the tool {name!r}"
        if schema is not None and not isinstance(schema, Mapping):
            raise ValueError(f"{where} must be a JSON object, not {schema!r:.40}")
        found[name] = grammar_of({"type": "object", **(none if schema is None else schema)}, where)
    return list(found.items())


def named(tool: object) -> Mapping[str, Any]:
    """The function of {"type": "function", "function": {...}}; empty where there is none."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    return function if isinstance(function, Mapping) else {}


def chosen(functions: Sequence[tuple[str, str]], choice: Mapping[str, Any]) -> tuple[str, str]:
    name = named(choice).get("name")
    for known_name, schema in functions:
        if known_name == name:
            return known_name, schema
    raise ValueError(f"tool_choice names {name!r}, but the tools are {', '.join(name for name, _ in functions)}")


# -- vocabularies --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What llguidance asks of a tokenizer: the bytes of each token."""

    tokens: list[bytes]
    eos_token_id: int
    special_token_ids: list[int]
    bos_token_id: None = None
    is_tokenizer_wrapper: bool = True

    def __call__(self, text: bytes) -> list[int]:
        raise NotImplementedError("with no_forcing, nothing asks how a text is usually spelled")


KNOWN: WeakKeyDictionary[Tokenizer, dict[frozenset[int], Any]] = WeakKeyDictionary()


def known(tokenizer: Tokenizer, ends: frozenset[int]) -> Any:
    """llguidance's trie of a vocabulary, built once."""
    made = KNOWN.setdefault(tokenizer, {})
    if ends not in made:
        special = sorted(tokenizer.special | ends)
        words: Any = Vocabulary(spelled(tokenizer), min(ends), special)
        made[ends] = llguidance.LLTokenizer(words, eos_token=sorted(ends))
    return made[ends]


def ends_of(tokenizer: Tokenizer, ends: Collection[int] | None) -> frozenset[int]:
    if llguidance is None:
        raise ValueError("text by a schema needs the llguidance package: pip install modelwright[grammar]")
    given = [tokenizer.eos] if ends is None else ends
    found = frozenset(token for token in given if token is not None and token < tokenizer.vocab)
    if not found:
        raise ValueError(
            "this model has no token that ends a text, so JSON by a schema could not end where it is complete"
        )
    return found


def spelled(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of each token; none for one that is no text.

    Raises ValueError for a vocabulary whose tokens are not bytes in a row (WordPiece), or that lacks what JSON is
    written with.
    """
    steps = decoding(tokenizer)
    mute = tokenizer.special | {tokenizer.unk}
    tokens = [None if i in mute else tokenizer.inner.id_to_token(i) for i in range(tokenizer.vocab)]
    found = [b"" if token is None else spell(token, steps) for token in tokens]
    ids = tokenizer.encode(PROBE)
    if b"".join(found[i] for i in ids).strip() != tokenizer.decode(ids).strip().encode():
        raise ValueError("the text of this tokenizer's tokens depends on their neighbours: it cannot follow a grammar")
    if missing := [sign for sign in '{}[]":,-.0123456789' if sign.encode() not in set(found)]:
        raise ValueError(f"this tokenizer cannot write JSON: it has no token for {' '.join(missing)}")
    return found


PROBE = '{"naïve 😀": [1, -2.5e3, true]}\n a b'
BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # that GPT-2 writes as the characters they are
SPELT = {chr(byte): byte for byte in BYTES}
SPELT |= {chr(0x100 + n): byte for n, byte in enumerate(sorted(set(range(256)) - set(BYTES)))}


def decoding(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The steps from pieces to text, as the tokenizers library lists them."""
    decoder = tokenizer.inner.decoder
    described = json.loads(decoder.__getstate__()) if decoder else {"type": "none"}
    steps: list[dict[str, Any]] = described.get("decoders", [described])
    if unknown := [step["type"] for step in steps if step["type"] not in STEPS]:
        raise ValueError(f"a tokenizer that decodes by {unknown[0]} cannot follow a grammar: BPE and Unigram can")
    return steps


STEPS = ("ByteLevel", "ByteFallback", "Replace", "Metaspace", "Fuse", "Strip")


def spell(token: str, steps: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of a token in the middle of a text."""
    for step in steps:
        if step["type"] == "ByteLevel" and all(character in SPELT for character in token):
            return bytes(SPELT[character] for character in token)
        if step["type"] == "ByteFallback" and re.fullmatch("<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        if step["type"] == "Metaspace":
            token = token.replace(step["replacement"], " ")
        if step["type"] == "Replace" and "String" in step["pattern"]:
            token = token.replace(step["pattern"]["String"], step["content"])
    return token.encode()
