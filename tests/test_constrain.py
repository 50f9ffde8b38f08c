"""Constrained text: what ends is valid by its schema, what cannot be kept to is refused, and nobody else notices."""

import gc
import json
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from modelwright.data import tokenizer as tokenizers
from modelwright.data.tokenizer import Tokenizer
from modelwright.infer import constrain
from modelwright.infer.constrain import Constraint, json_grammar, spelled, tool_grammar
from modelwright.infer.engine import Engine, New, Request
from modelwright.infer.sample import Sampling
from modelwright.model.transformer import Config, Rope, Transformer, initialise
from modelwright.serve.reply import calls_of

TEXTS = [
    "the cat sat on the mat, the dog did not; a naïve 😀 smile and the end of it all",
    '{"name": "Ann", "age": 12, "tags": ["a", "b"], "x": {"y": null}, "ok": true}\n',
] * 3
DATA = Path(os.environ.get("MODELWRIGHT_DATA", "/nowhere"))
KINDS = {"bpe": 400, "unigram": 420}
PADDING = 9  # logits of the model beyond the tokenizer's tokens


def closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
        **more,
    }


WHOLE, NULL = {"type": "integer"}, {"type": "null"}
NODE = closed({"v": WHOLE, "next": {"anyOf": [{"$ref": "#/$defs/node"}, NULL]}})
SCHEMAS: dict[str, dict[str, Any] | None] = {
    "any object": None,
    "enum": closed({"c": {"enum": ["red", "grün", 1, None, [1, {"a": 2}]]}, "k": {"const": {"é": ["x"]}}}),
    "array": {
        "type": "array",
        "items": {"type": "integer", "minimum": -3, "maximum": 12},
        "minItems": 2,
        "maxItems": 4,
    },
    "nested": closed(
        {"a": closed({"b": {"type": "array", "items": closed({"c": {"type": "boolean"}}), "maxItems": 2}})}
    ),
    "recursive": {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    "any of": {
        "anyOf": [
            {"type": "string", "maxLength": 5},
            {"type": "number", "minimum": 0, "exclusiveMaximum": 2.5},
            {"type": "array", "prefixItems": [{"type": "boolean"}, NULL], "items": False, "minItems": 2},
        ]
    },
    "one of": {"oneOf": [closed({"t": {"const": "a"}, "n": WHOLE}), closed({"t": {"const": "b"}})]},
    "all of": {"allOf": [closed({"a": {"minimum": 2, **WHOLE}}), {"properties": {"a": {"maximum": 9}}}]},
    "pattern": closed(
        {
            "id": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3,4}$"},
            "w": {"type": "string", "pattern": "ab+c", "maxLength": 9},
        }
    ),
    "names": {"type": "object", "properties": {"a": WHOLE}, "additionalProperties": {"type": "boolean"}},
    "patterns of names": {
        "type": "object",
        "patternProperties": {"^x": WHOLE, "^y": NULL},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 3,
    },
    "unicode": closed({'naïve 😀"\\\n': {"type": "string", "minLength": 1, "maxLength": 4}}),
    "multiples": closed({"a": {"type": "integer", "multipleOf": 7}, "b": {"type": "number", "multipleOf": 0.5}}),
    "format": closed({"day": {"type": "string", "format": "date"}}),
    "draft 4": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        **closed({"a": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 3}}),
    },
    "no type": {"properties": {"a": WHOLE}, "items": NULL, "maxLength": 3, "title": "T", "default": 1},
}


@pytest.fixture(scope="module", params=KINDS)
def words(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizers.train(TEXTS, request.param, KINDS[request.param])


def model(words: Tokenizer) -> Transformer:
    """Random, and far from even; its logits are more than the tokenizer has tokens."""
    cfg = Config(vocab=words.vocab + PADDING, width=32, layers=2, heads=4, kv_heads=2, head=8, ffn=64, context=400,
                 rope=Rope(), tied=False)  # fmt: skip
    made = initialise(Transformer(cfg), torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.mul_(1.0 if "norm" in name else 3.0)
    return made


def asked(words: Tokenizer, seed: int, grammar: Constraint | None, max_new: int = 250) -> Request:
    """Seed 0 reads greedily."""
    sampling = Sampling(max_new, 1.0 if seed else 0.0, seed=seed)
    return Request(words.encode("the cat"), sampling, ends={words.eos or 0}, grammar=grammar)


def text(words: Tokenizer, row: Sequence[New]) -> str:
    return words.decode(new.token for new in row)


def spell(words: Tokenizer, said: str, grammar: Constraint) -> bool:
    """Whether the grammar lets a text come, in its usual spelling."""
    for token in words.encode(said):
        if not grammar.allowed()[token]:
            return False
        grammar.take(token)
    return True


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_what_ends_is_valid(words: Tokenizer, schema: dict[str, Any] | None) -> None:
    requests = [asked(words, seed, json_grammar(words, schema)) for seed in range(8)]
    found = Engine(model(words)).run(requests)
    ended = [text(words, row) for row in found if row[-1].finish == "stop"]
    assert len(ended) >= 4
    assert [request.grammar.fault for request in requests] == [None] * 8  # type: ignore[union-attr]
    for said in ended:
        jsonschema.validate(json.loads(said), schema or {"type": "object"})
    assert all(row[-1].token == words.eos for row in found if row[-1].finish == "stop")
    assert max(new.token for row in found for new in row) < words.vocab  # none of those that only pad the logits


def test_a_text_that_is_cut_says_so(words: Tokenizer) -> None:
    schema = closed({"a": {"type": "array", "items": WHOLE, "minItems": 40}})
    [row] = Engine(model(words)).run([asked(words, 1, json_grammar(words, schema), max_new=30)])
    assert (row[-1].finish, len(row)) == ("length", 30)
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(text(words, row))


def test_the_end_is_allowed_where_the_text_is_complete_and_forced_where_it_must_be(words: Tokenizer) -> None:
    assert words.eos is not None
    grammar = json_grammar(words, closed({"n": WHOLE}))
    assert not grammar.allowed()[words.eos]
    assert spell(words, '{"n": 1', grammar)
    assert not grammar.allowed()[words.eos]
    assert spell(words, "}", grammar)
    assert grammar.allowed().nonzero()[:, 0].tolist() == [words.eos]
    grammar.take(words.eos)
    assert grammar.allowed().nonzero()[:, 0].tolist() == [words.eos]
    number = json_grammar(words, WHOLE)
    assert spell(words, "1", number)
    assert number.allowed()[[words.eos, words.encode("2")[0]]].all()  # 1 is complete, and so is 12


def test_special_tokens_never_stand_in_the_text(words: Tokenizer) -> None:
    """Nor is EOS one of them where another token is said to end the text."""
    assert words.pad is not None
    grammar = json_grammar(words, {"type": "string"}, ends=[words.pad])
    assert spell(words, '"the', grammar)
    special = sorted(words.special)
    assert not grammar.allowed()[special].any()
    assert grammar.allowed().sum() > 100
    assert spell(words, '"', grammar)
    assert grammar.allowed().nonzero()[:, 0].tolist() == [words.pad]


def test_spaces_have_an_end(words: Tokenizer) -> None:
    space = "{" + "\n\n" + " " * 20
    assert spell(words, '{ "a": 1 }', json_grammar(words))
    assert spell(words, space + '"a":1}', json_grammar(words))
    assert not spell(words, space + " ", json_grammar(words))
    assert not spell(words, "{  ", json_grammar(words))
    assert not spell(words, " {", json_grammar(words))


def test_a_character_has_one_spelling(words: Tokenizer) -> None:
    """Or a key could come a second time, as one that the schema does not name."""
    schema = {"type": "object", "properties": {"a": WHOLE}}
    assert spell(words, '{"b":"\\n\\"é"}', json_grammar(words, schema))
    assert not spell(words, '{"b":1,"\\u0061":"x"}', json_grammar(words, schema))
    assert not spell(words, '{"b":1,"a":1}', json_grammar(words, schema))


def test_free_requests_beside_constrained_ones_are_what_they_are_alone(words: Tokenizer) -> None:
    lm = model(words)
    alone = [Engine(lm).run([asked(words, seed, None, 40)])[0] for seed in range(6)]
    mixed: list[Request] = []
    for seed in range(6):
        mixed += [asked(words, seed, json_grammar(words, SCHEMAS["nested"]), 40), asked(words, seed, None, 40)]
    assert Engine(lm).run(mixed)[1::2] == alone
    constrained = Engine(lm).run([asked(words, 3, json_grammar(words, SCHEMAS["nested"]), 40)])
    again = [asked(words, seed, json_grammar(words, SCHEMAS["nested"]), 40) for seed in range(6)]
    assert Engine(lm).run(again)[3] == constrained[0]


# -- what is refused -----------------------------------------------------------------------------

TEXT = {"type": "string", "format": "email"}
MEETING = {  # for the property a of x
    "$defs": {
        "x": {"properties": {"a": {"type": "string", "allOf": [{"pattern": f"a{n}"} for n in range(8)]}, "b": TEXT}}
    },
    "properties": {"x": {"allOf": [{"$ref": "#/$defs/x"}, {"additionalProperties": TEXT}]}},
}
JOINED = {
    "$defs": {"b": {"type": "object", "patternProperties": {f"^{n}$": {} for n in range(10)}}},
    "properties": {f"p{n}": {"allOf": [{"$ref": "#/$defs/b"}, {"maxProperties": n}]} for n in range(9)},
}
REFUSED: list[tuple[Any, str]] = [
    ({"uniqueItems": True}, "has the keyword 'uniqueItems', which is not supported"),
    ({"properties": {"a": {"items": {"not": {}}}}}, "properties 'a', items has the keyword 'not'"),
    ({"$defs": {"x": {"if": {}}}, "type": "null"}, r"\$defs 'x' has the keyword 'if'"),
    ({"typo": 1}, "'typo'"),
    ({"x-guidance": {"lenient": True}}, "'x-guidance'"),
    ({"type": "string", "format": "colour"}, "Unknown format: colour"),
    ({"$ref": "http://example.org/x"}, r"\$ref to 'http://example.org/x': only those within"),
    ({"$ref": "#/$defs/none"}, "does not exist"),
    ({"type": "text"}, "Invalid type: text"),
    ({"pattern": "(?=a)b"}, "look-ahead"),
    ({"pattern": "("}, "unclosed group"),
    ({"pattern": "a" * 1001}, "more than 1,000 characters"),
    ({"oneOf": [WHOLE, {"type": "number"}]}, "oneOf constraints are not supported"),
    ({"type": "integer", "minimum": 5, "maximum": 1}, "minimum .* is greater"),
    ({"enum": []}, "Unsatisfiable"),
    ({"$ref": "#"}, "no value is valid"),
    ({"type": "object", "minProperties": 3, "required": ["a"]}, "minProperties 3"),
    ({"type": "number", "multipleOf": 0.01}, "multipleOf 0.01"),
    ({"allOf": [{"pattern": f"a{n}"} for n in range(50)]}, "one text to 50 patterns and formats at once: 8 at most"),
    (MEETING, "one text to 9 patterns"),
    ({"patternProperties": {f"^x{n}$": {} for n in range(300)}}, "300 patternProperties in .* schemas: too many"),
    (JOINED, "patternProperties in .* schemas"),
    ({"enum": [f"v{n}" for n in range(10_001)], "pattern": "7$"}, "10,001 values of enum beside a pattern"),
    ({"multipleOf": 9999991}, "least common multiple, .* of over 10,000"),
    ({"allOf": [{"type": "integer", "multipleOf": p} for p in (97, 89, 83, 79)]}, "least common multiple"),
    ({"$defs": {"a": {"items": {"multipleOf": 97}}, "b": {"multipleOf": 0.125}}}, "least common multiple"),
    ({"type": "integer", "multipleOf": 10**4000}, "least common multiple"),
    ({"type": "number", "multipleOf": float("inf")}, "not JSON compliant"),
    ({"type": "number", "minimum": float("nan")}, "not JSON compliant"),
    ({"const": {1}}, "is no JSON"),
    ({"const": "\x01"}, "cannot be followed"),
    ({"enum": ["a" * 100_001]}, "has 100,.* characters"),
    ([], r"must be a JSON object, not \[\]"),
]


@pytest.mark.parametrize(("schema", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_kept_to_is_refused(words: Tokenizer, schema: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as told:
        json_grammar(words, schema)
    assert "\n" not in str(told.value)


def test_a_schema_has_a_depth(words: Tokenizer) -> None:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(48):
        schema = {"anyOf": [schema]}
    assert spell(words, "null", json_grammar(words, schema))
    with pytest.raises(ValueError, match="more than 48 schemas deep"):
        json_grammar(words, {"anyOf": [schema]})
    value: Any = 1
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValueError, match="no JSON that can be written: maximum recursion"):
        json_grammar(words, {"const": value})


def test_a_unit_at_the_bound_is_kept_to(words: Tokenizer) -> None:
    units = {"allOf": [{"type": "integer", "multipleOf": 101}, {"multipleOf": 99}]}
    for said, valid in (("9999", True), ("19998", True), ("9998", False), ("101", False)):
        grammar = json_grammar(words, units)
        assert spell(words, said, grammar)
        assert grammar.allowed()[words.eos] == valid
    parts_ = json_grammar(words, {"type": "number", "multipleOf": 12.5})
    assert spell(words, "37.5", parts_)
    assert parts_.allowed()[words.eos]


def test_a_fresh_constraint_is_at_the_beginning_of_another_text(words: Tokenizer) -> None:
    first = json_grammar(words, closed({"n": WHOLE}))
    start = first.allowed()
    assert spell(words, '{"n": 1', first)
    second = first.fresh()
    assert torch.equal(second.allowed(), start)
    assert spell(words, '{"n": 2}', second)
    assert not first.allowed()[words.eos]  # neither moves the other
    assert spell(words, "2}", first)
    assert torch.equal(second.fresh().allowed(), start)
    assert second.fresh().ends == first.ends


def test_a_fresh_constraint_has_no_fault(words: Tokenizer) -> None:
    loop = {"properties": {"a": {"$ref": "#/$defs/x"}}, "required": ["a"], "$defs": {"x": {"$ref": "#/$defs/x"}}}
    grammar = json_grammar(words, {"type": "object", **loop})
    while grammar.fault is None:
        grammar.take(int(grammar.allowed().nonzero()[0, 0]))
    again = grammar.fresh()
    assert again.fault is None
    assert spell(words, "{", again)


def test_what_is_compiled_is_compiled_once(words: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = json_grammar(words, WHOLE)
    monkeypatch.setattr("llguidance.LLMatcher", None)
    assert spell(words, "12", grammar.fresh())


def test_annotations_change_nothing(words: Tokenizer) -> None:
    said = {"title": "T", "description": "d", "default": {"not": 1}, "examples": [2], "deprecated": True}
    grammar = json_grammar(words, closed({"not": {"type": "boolean", **said}}, **said))  # a name is no keyword
    assert spell(words, '{"not":true}', grammar)


def test_a_dead_end_within_a_text_ends_it_with_a_fault(words: Tokenizer) -> None:
    """No value is valid as `a`, which nothing says beforehand: the text ends, and the neighbour's goes on."""
    loop = {"properties": {"a": {"$ref": "#/$defs/x"}}, "required": ["a"], "$defs": {"x": {"$ref": "#/$defs/x"}}}
    grammar = json_grammar(words, {"type": "object", **loop})
    ended, other = Engine(model(words)).run([asked(words, 1, grammar), asked(words, 1, None, 40)])
    assert (ended[-1].token, ended[-1].finish) == (words.eos, "stop")
    assert grammar.fault == "it leads to where no value is valid"
    assert [other] == Engine(model(words)).run([asked(words, 1, None, 40)])


def test_work_beyond_the_limits_is_a_fault(words: Tokenizer) -> None:
    grammar = json_grammar(words, {"type": "string", "pattern": "^(((a{1,1000}){1,1000}){1,1000})$"})
    while grammar.fault is None:
        free = grammar.allowed()
        grammar.take(words.encode("a")[0] if free[words.encode("a")[0]] else words.encode('"')[0])
    assert "too many" in grammar.fault or "limit" in grammar.fault
    assert grammar.allowed().nonzero()[:, 0].tolist() == [words.eos]


# -- tools ---------------------------------------------------------------------------------------

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {**closed({"city": {"$ref": "#/$defs/city"}}), "$defs": {"city": {"enum": ["Ulm", "Bern"]}}},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
ULM, TIME = '{"name": "weather", "arguments": {"city":"Ulm"}}', '{"name": "clock", "arguments": {}}'


@pytest.mark.parametrize(
    ("choice", "parallel", "allowed", "forbidden"),
    [
        ("required", False, [ULM, TIME], [f"{ULM}\n{TIME}", "hello", '{"name": "wind"']),
        ("required", True, [ULM, f"{ULM}\n{TIME}\n{ULM}"], ["hello", f"{ULM}\n\n", f"{ULM} "]),
        ("auto", True, [ULM, f"{TIME}\n{ULM}", "hello {", "\nno"], ['{"a"', f"{ULM} and"]),
        ({"type": "function", "function": {"name": "clock"}}, True, [TIME, f"{TIME}\n{TIME}"], [ULM, "hello"]),
    ],
)
def test_calls_by_choice(
    words: Tokenizer, choice: Any, parallel: bool, allowed: list[str], forbidden: list[str]
) -> None:
    for said in allowed:
        grammar = tool_grammar(words, [WEATHER, CLOCK], choice, parallel)
        assert spell(words, said, grammar), said
        assert grammar.allowed()[words.eos], said
    for said in forbidden:
        assert not spell(words, said, tool_grammar(words, [WEATHER, CLOCK], choice, parallel)), said


@pytest.mark.parametrize("parallel", [False, True])
def test_what_is_written_are_calls_of_the_tools(words: Tokenizer, parallel: bool) -> None:
    requests = [asked(words, seed, tool_grammar(words, [WEATHER, CLOCK], "required", parallel)) for seed in range(16)]
    written = [text(words, row) for row in Engine(model(words)).run(requests) if row[-1].finish == "stop"]
    assert len(written) > 8
    called: set[str] = set()
    for said in written:
        calls = calls_of(said, ["weather", "clock"])
        assert (len(calls) == 1) if not parallel else (1 <= len(calls) <= 16)
        for name, arguments in calls:
            schema = {"weather": WEATHER["function"]["parameters"], "clock": closed({})}[name]  # type: ignore[index]
            jsonschema.validate(json.loads(arguments), schema)
        called |= {name for name, _ in calls}
    assert called == {"weather", "clock"}


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        ([], "auto", "1 to 128 tools, not 0"),
        ([CLOCK] * 129, "auto", "1 to 128 tools, not 129"),
        ([CLOCK, CLOCK], "auto", r"tools\[1\] needs a function with a name of its own"),
        ([{"function": {"name": "a b"}}], "auto", r"tools\[0\]"),
        (["clock"], "auto", r"tools\[0\]"),
        ([CLOCK], "none", "tool_choice must be auto, required or a function"),
        ([CLOCK], {"type": "function", "function": {"name": "wind"}}, "names 'wind', but the tools are clock"),
        (
            [{"function": {"name": "f", "parameters": {"not": {}}}}],
            "auto",
            "the parameters of the tool 'f' has .* 'not'",
        ),
        ([{"function": {"name": "f", "parameters": 1}}], "auto", "parameters of the tool 'f' must be a JSON object"),
    ],
)
def test_tools_that_are_none(words: Tokenizer, tools: Any, choice: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tool_grammar(words, tools, choice)


# -- vocabularies --------------------------------------------------------------------------------


def test_the_bytes_of_the_tokens_are_the_texts(words: Tokenizer) -> None:
    bytes_ = spelled(words)
    for said in (*TEXTS, "żółć 漢字 \x00\x7f  \n\t", '{"a": -1.5e9}'):
        assert b"".join(bytes_[i] for i in words.encode(said)).decode() == said
    assert all(bytes_[i] == b"" for i in words.special)
    assert {bytes([byte]) for byte in range(256)} - set(bytes_) == set()


def test_a_vocabulary_is_read_once_and_let_go() -> None:
    words = tokenizers.train(TEXTS, "bpe", 400)
    first, second = json_grammar(words), json_grammar(words, WHOLE)
    assert len(constrain.KNOWN[words]) == 1
    json_grammar(words, ends=[words.pad])
    assert len(constrain.KNOWN[words]) == 2
    gone = weakref.ref(words)
    del words, first, second
    gc.collect()
    assert gone() is None


def test_tokenizers_that_cannot_follow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = tokenizers.train(TEXTS, "wordpiece", 400, objective="masked")
    with pytest.raises(ValueError, match="decodes by WordPiece cannot follow a grammar"):
        json_grammar(pieces, ends=[pieces.sep])
    with pytest.raises(ValueError, match="no token that ends a text"):
        json_grammar(pieces)
    bytes_ = tokenizers.train(TEXTS, "bpe", 400)
    with pytest.raises(ValueError, match="no token that ends a text"):
        json_grammar(bytes_, ends=[bytes_.vocab])
    monkeypatch.setattr(constrain, "llguidance", None)
    with pytest.raises(ValueError, match=r"^text by a schema needs .*: pip install modelwright\[grammar\]$"):
        json_grammar(bytes_)


@pytest.mark.skipif(not DATA.is_dir(), reason="real data: set MODELWRIGHT_DATA")
@pytest.mark.parametrize(("name", "said"), [("gpt2", None), ("t5", r"has no token for \{ \}$")])
def test_published_vocabularies(name: str, said: str | None) -> None:
    words = Tokenizer.load(DATA / "tokenizers" / name)
    if said is None:
        grammar = json_grammar(words, closed({"naïve": {"type": "string"}}))
        assert spell(words, '{"naïve": "it’s 漢字 😀"}', grammar)
        assert grammar.allowed().nonzero()[:, 0].tolist() == [words.eos]
    else:
        with pytest.raises(ValueError, match=said):
            json_grammar(words)
