"""Bodies to requests, and answers to JSON: what is read, what is refused, how a stream looks."""

from __future__ import annotations

import json
import struct
import time
from base64 import b64decode
from typing import Any

import pytest

from modelwright.serve.metrics import Histogram, Metrics
from modelwright.serve.protocol import DEEP, ChatBody, CompletionBody, EmbeddingBody, Refusal, parse, read
from modelwright.serve.reply import Beside, Calls, ChatForm, Piece, TextForm, Token, Usage, calls_of, embeddings

USER = [{"role": "user", "content": "a"}]


def of(kind: Any, **fields: Any) -> Any:
    return read(kind, json.dumps({"model": "m", **fields}).encode())


def refused(kind: Any, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as found:
        of(kind, **fields)
    return found.value


# -- bytes -------------------------------------------------------------------------------------------------------


def test_what_readers_differ_on_is_refused() -> None:
    for body, said in (
        (b'{"a": 1, "a": 2}', "'a' twice"), (b'{"a": {"b": 1, "b": 1}}', "'b' twice"), (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"), (b'"\xff"', "UTF-8"), (b'["a"]', "an array"), (b"true", "true"),
        (b'{"a": "\\ud83d"}', "surrogate"), (b"[" * 100_000, "too deeply"), (b"{} x", "Extra data"),
    ):  # fmt: skip
        with pytest.raises(Refusal, match=said) as found:
            parse(body)
        assert found.value.status == 400
    assert parse(b'{"a": "\\ud83d\\ude00", "b": "\\\\ud800"}') == {"a": "😀", "b": "\\ud800"}


def test_the_depth_is_bounded_and_reached() -> None:
    body = json.loads("[" * DEEP + "]" * DEEP)
    assert parse(json.dumps({"a": body}).encode())
    with pytest.raises(Refusal, match=f"at most {DEEP}"):
        parse(json.dumps({"a": [body]}).encode())


# -- fields ------------------------------------------------------------------------------------------------------


def test_left_out_and_null_are_the_same_and_unknown_is_passed_over() -> None:
    plain = of(CompletionBody, prompt="a")
    assert of(CompletionBody, prompt="a", n=None, stop=None, temperature=None, logprobs=None, stream=None) == plain
    assert of(CompletionBody, prompt="a", user="me", extra={"x": 1}, best_of=1, echo=False, suffix="") == plain
    assert set(plain.sampling.values()) == {None}
    assert (plain.choices, plain.told, plain.candidates) == (1, False, 0)


def test_prompts_are_texts_or_ids_one_or_many() -> None:
    for said, expected in (
        ("a", ["a"]), ("", [""]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]),
    ):  # fmt: skip
        assert of(CompletionBody, prompt=said).prompt == expected
    for wrong in ([], [[]], [1, "a"], [True], [-1], [1.5], {"a": 1}, 5, [None], [["a"]]):
        assert refused(CompletionBody, prompt=wrong).param == "prompt"
    assert "300 texts" in refused(EmbeddingBody, input=["a"] * 300).message


def test_settings_are_those_of_sampling() -> None:
    body = of(CompletionBody, prompt="a", stop="x", seed=-1, max_tokens=3, temperature=1, top_k=4, min_p=0.1)
    said = {name: value for name, value in body.sampling.items() if value is not None}
    expected = {"stop": ("x",), "seed": (1 << 63) - 1, "max_new": 3, "temperature": 1.0, "top_k": 4, "min_p": 0.1}
    assert said == expected
    both = of(ChatBody, messages=USER, max_tokens=3, max_completion_tokens=4)
    assert both.sampling["max_new"] == 4
    assert of(CompletionBody, prompt="a", logit_bias={"5": -3}).logit_bias == {5: -3.0}


def test_messages_are_as_templates_have_them() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    body = of(ChatBody, messages=[
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "5", "tool_call_id": "c"},
    ])  # fmt: skip
    system, assistant, tool = [message.plain for message in body.messages]
    assert system == {"role": "system", "content": "ab"}
    assert assistant["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert tool == {"role": "tool", "content": "5", "tool_call_id": "c"}
    assert refused(ChatBody, messages=[{"role": "assistant"}]).param == "messages.0"


def test_tools_and_schemas_are_checked_in_form() -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    body = of(ChatBody, messages=USER, tools=tools)
    assert (body.offered, body.choice, body.as_json) == (tools, "auto", None)
    named = {"type": "function", "function": {"name": "look"}}
    assert of(ChatBody, messages=USER, tools=tools, tool_choice=named).choice == named
    assert of(ChatBody, messages=USER, tools=tools, tool_choice="none").offered == []
    assert of(ChatBody, messages=USER, response_format={"type": "json_object"}).as_json == (None,)
    for fields, param in (
        ({"tools": tools, "tool_choice": {**named, "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": tools, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": tools, "response_format": {"type": "json_object"}}, "tools"),
        ({"tools": tools * 65}, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": "b" * 70_000}}}},
         "response_format"),
    ):  # fmt: skip
        assert refused(ChatBody, messages=USER, **fields).param == param, fields


def test_lists_are_bounded_before_they_are_looked_at() -> None:
    """Of millions of bytes of faults none is looked for; such a body is refused as fast as it is parsed."""
    many: list[Any] = [{}] * 600_000
    call = {"function": {"name": "f", "arguments": ""}}
    for fields, param in (
        ({"messages": many}, "messages"), ({"messages": USER, "tools": many}, "tools"),
        ({"messages": [{"role": "assistant", "tool_calls": many[:2000]}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [call] * 129}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [call] * 128}] * 17}, "messages"),
        ({"messages": [*USER, {"role": "assistant", "tool_calls": many}]}, "messages"),
        ({"messages": USER, "fields": {str(at): at for at in range(65)}}, "fields"),
    ):  # fmt: skip
        body = json.dumps({"model": "m", **fields}).encode()
        begun = time.process_time()
        parse(body)
        parsed = time.process_time() - begun
        with pytest.raises(Refusal, match="may hold") as found:
            read(ChatBody, body)
        assert found.value.param == param
        assert time.process_time() - begun < 2.5 * parsed + 0.1
    assert len(of(ChatBody, messages=[{"role": "assistant", "tool_calls": [call] * 128}]).messages) == 1


def test_a_key_that_stands_twice_is_found_at_once() -> None:
    body = json.dumps({str(at): 0 for at in range(100_000)})[:-1] + ', "99999": 1}'
    begun = time.process_time()
    with pytest.raises(Refusal, match="'99999' twice"):
        parse(body.encode())
    assert time.process_time() - begun < 2


# -- answers -----------------------------------------------------------------------------------------------------


def test_calls_are_read_of_nothing_but_calls() -> None:
    one, two = '{"name": "f", "arguments": {"x": 1}}', '{"name": "g", "arguments": {}}'
    assert calls_of(one, ["f"]) == [("f", '{"x": 1}')]
    assert calls_of(f" {one}\n{two}", ["f", "g"]) == [("f", '{"x": 1}'), ("g", "{}")]
    for none in (f"{one} and", f"so {one}", one[:-1], two, '{"name": "f"}', '{"name": "f", "arguments": 1}', "", "[]"):
        assert calls_of(none, ["f"]) == []
    assert calls_of(f"{one} {one}\n{one[:-1]}", ["f"], cut=True) == [("f", '{"x": 1}')] * 2
    for none in (f"{one} and", one[:-1], f"{two} {one[:-1]}"):
        assert calls_of(none, ["f"], cut=True) == []


def test_a_call_is_held_back_and_other_text_is_not() -> None:
    def shown(*texts: str) -> list[Piece]:
        calls = Calls(["f"])
        pieces = [Piece(0, text, finish="stop" if at == len(texts) - 1 else None) for at, text in enumerate(texts)]
        return [found for piece in pieces if (found := calls.take(piece)) is not None]

    [call] = shown("", '{"name"', ': "f", "arguments": ', '{"x": 1}}')
    assert (call.text, call.calls, call.finish) == ("", [("f", '{"x": 1}')], "tool_calls")
    assert [piece.text for piece in shown("so ", "it ", "{ goes")] == ["so ", "it ", "{ goes"]
    assert [piece.text for piece in shown("Use a ", "{set}", " of")] == ["Use a ", "{set}", " of"]
    assert [piece.text for piece in shown("{", "x}")] == ["{x}"]
    assert shown('{"name": "f"', ', "arguments": {}')[0].calls == ()
    form = ChatForm("m", None, 0)
    answer = form.answer([[call]], Usage(1, 2))
    choice = answer["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x": 1}'}
    first, last = [json.loads(chunk[6:])["choices"][0] for chunk in form.chunk(0, call, 0)]
    assert (first["delta"]["tool_calls"][0]["index"], last["finish_reason"]) == (0, "tool_calls")


CALL = '{"name": "f", "arguments": {}}'
CUT = -1  # one call, and what the length cut of another; text where it was not the length


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize(
    ("text", "called"),
    [
        (CALL, 1), (f"{CALL}\n{CALL}", 2), (CALL[:-1], 0), (f"{CALL}\n{CALL[:9]}", CUT), (f" {CALL}", 0), ("{", 0),
        (f"I {CALL}", 0), (f"\n\n{CALL}", 0), ("a {b}", 0), ("", 0),
    ],
)  # fmt: skip
def test_calls_do_not_depend_on_how_a_text_is_cut(text: str, called: int, finish: str) -> None:
    """A text of two choices, cut in two anywhere and in characters, with a last piece that is empty or is not."""
    reason = "tool_calls" if called > 0 else finish
    called = int(finish == "length") if called == CUT else called
    cuts = [[text[:at], text[at:]] for at in range(len(text) + 1)] + [[*text, ""], ["", *text]]
    for parts in cuts:
        calls, shown = Calls(["f"]), [[], []]  # type: tuple[Calls, list[list[Piece]]]
        for at, part in enumerate(parts):
            last = at == len(parts) - 1
            for choice, said in enumerate((part, "plain" * last)):  # the second choice goes its own way
                piece = Piece(choice, said, finish=finish if last else None, written=last * 7)
                shown[choice] += [found for found in [calls.take(piece)] if found is not None]
        form = ChatForm("m", None, 0)
        first, second = form.answer(shown, Usage(1, 7))["choices"]
        message = first["message"]
        assert (second["message"]["content"], second["finish_reason"]) == ("plain", finish)
        assert first["finish_reason"] == reason
        assert len(message.get("tool_calls", [])) == called
        assert message["content"] == (None if called else text)
        deltas = [
            json.loads(event[6:])["choices"][0]["delta"] for piece in shown[0] for event in form.chunk(0, piece, 0)
        ]
        assert "".join(delta.get("content", "") for delta in deltas) == (message["content"] or "")
        assert [call["index"] for delta in deltas for call in delta.get("tool_calls", [])] == list(range(called))
        assert shown[0][-1].written == 7


def test_a_stream_and_an_answer_say_the_same() -> None:
    token = Token(7, "hé", float("-inf"), [Beside(7, "hé", float("-inf"), {"top_k": 0.0}), Beside(8, "x", -1.0, {})])
    pieces = [Piece(0, "h\n"), Piece(0, "é", [token]), Piece(0, "", finish="stop", written=3)]
    for form in (ChatForm("m", 1, 2, usage=True), TextForm("m", 1, 2, usage=True)):
        whole = form.answer([pieces], Usage(4, 3))
        chunks = b"".join([*form.begin(1), *(c for p in pieces for c in form.chunk(0, p, 0)), *form.end(Usage(4, 3))])
        lines = chunks.decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        said = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
        assert {one["id"] for one in said} == {f"{form.prefix}-{form.id}"} == {whole["id"]}
        assert said[-1]["usage"] == whole["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
        choices = [one["choices"][0] for one in said[:-1]]
        text = "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)
        assert text == "h\né"
        assert [c["tokens"] for c in choices if c.get("tokens")] == [whole["choices"][0]["tokens"]]
        assert whole["choices"][0]["tokens"][0]["logprob"] == -9999.0
    assert ChatForm("m", 1, 0).logprobs(pieces[1])["content"][0]["bytes"] == list("hé".encode())  # type: ignore[index]


def test_embeddings_in_both_forms() -> None:
    vectors = [[1.0, -0.5], [0.25, 2.0]]
    found = embeddings("m", vectors, 5, True)["data"]
    assert [list(struct.unpack("<2f", b64decode(one["embedding"]))) for one in found] == vectors
    assert [one["embedding"] for one in embeddings("m", vectors, 5, False)["data"]] == vectors


def test_histograms_count_what_is_at_most_so_large() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2.5):
        histogram.add(value)
    assert list(histogram.lines("x")) == [
        'x_bucket{le="1"} 2', 'x_bucket{le="2"} 3', 'x_bucket{le="+Inf"} 4', "x_sum 5.500000", "x_count 4",
    ]  # fmt: skip
    assert "modelwright_steps 3" in Metrics().text({"steps": 3})
