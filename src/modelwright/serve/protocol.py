"""What may be asked over HTTP: the bytes of a body -> a validated request, or a `Refusal` that says what is wrong.

The routes, fields and errors are those of OpenAI's API, so that everyone's client speaks it; the fields beside them are
of `Body`. Nothing here reads or writes, and nothing knows a model: what only a model can tell (whether a prompt fits,
whether it can hold a conversation) is `serve/registry.py`'s to say. Unknown fields are passed over, as OpenAI does.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

BODY = 4 << 20  # bytes of a body
DEEP = 64  # objects and lists within each other
CHOICES = 16  # continuations of a prompt
PROMPTS = 256  # prompts, or texts to embed, in a request
IDS = 1 << 18  # token ids in a request
MESSAGES = 2048  # of a conversation, and calls of tools in all of them
CALLS = 128  # of tools in a message
FIELDS = 64  # columns of a task
STOPS, STOP = 4, 256  # stop strings, and characters of each
TOP = 20  # candidates beside a token, in OpenAI's form
LIKELY = 50  # and in ours
TOOLS = 64
BIASES = 300  # tokens that a request biases
SCHEMA = 64 << 10  # characters of a JSON schema
HALF = re.compile("[\ud800-\udfff]")  # half a character, which JSON can spell and no text can hold
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {413: "request_too_large", 429: "rate_limit_exceeded", 503: "unavailable"}


class Refusal(Exception):
    """What is said in place of an answer: an HTTP status, and a sentence on what is wrong and what would work."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code or CODES.get(status)

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status) or ("invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


# -- bytes -> JSON -------------------------------------------------------------------------------------------------


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises Refusal (400) for anything else, and for what readers of JSON differ on: a key
    that stands twice, NaN and Infinity, half characters, objects within each other without end."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8: byte {error.start} begins no character") from None
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_finite)
    except RecursionError:
        raise Refusal(
            400, f"the body is nested too deeply: at most {DEEP} objects and lists within each other"
        ) from None
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refusal(400, f"the body is {_named(found)}, and is to be a JSON object")
    if "\\ud" in text.lower() and HALF.search(json.dumps(found, ensure_ascii=False)):
        raise Refusal(400, "the body holds half a character (a lone surrogate): a text was cut in the midst of one")
    _check_depth(found)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"an object says {twice[:64]!r} twice")
    return found


def _finite(constant: str) -> float:
    raise ValueError(f"{constant} is no number in JSON")


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [inner for outer in level if isinstance(outer, dict | list) for inner in _inside(outer)]:
        depth += 1
        if depth > DEEP:
            raise _deep()


def _deep() -> Refusal:
    return Refusal(400, f"the body is nested too deeply: at most {DEEP} objects and lists within each other")


def _inside(value: dict[str, Any] | list[Any]) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _named(value: object) -> str:
    """A value's kind in JSON's words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds = {str: "a string", list: "an array", dict: "an object", int: "a number", float: "a number"}
    return kinds.get(type(value), "something else")


# -- fields --------------------------------------------------------------------------------------------------------


def _stops(said: Any) -> Any:
    texts = [said] if isinstance(said, str) else said
    if texts is None:
        return None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("is to be a text or a list of texts")
    if len(texts) > STOPS or not all(0 < len(text) <= STOP for text in texts):
        raise ValueError(f"may hold {STOPS} texts of 1 to {STOP} characters each")
    return texts


def _biases(said: Any) -> Any:
    if said is None:
        return None
    if not isinstance(said, dict) or len(said) > BIASES:
        raise ValueError(f"is to be an object of at most {BIASES} token ids, each with a number")
    if wrong := [key for key in said if not re.fullmatch(r"[0-9]{1,9}", key)]:
        raise ValueError(f"names {wrong[0][:32]!r}, which is no token's id")
    if not all(_is_number(bias) and -100 <= bias <= 100 for bias in said.values()):
        raise ValueError("adds to each token a number from -100 to 100")
    return {int(key): float(bias) for key, bias in said.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value)


def _prompts(said: Any) -> list[Any]:
    """One prompt or many, each a text or ids, as a list."""
    many = said if isinstance(said, list) and not (said and _is_ids(said)) else [said]
    if not many or not all(isinstance(one, str) or (_is_ids(one) and one) for one in many):
        raise ValueError("is to be a text, a list of texts, a list of token ids, or a list of such lists")
    if len(many) > PROMPTS:
        raise ValueError(f"holds {len(many)} texts, and a request may hold {PROMPTS}")
    if (ids := sum(len(one) for one in many if isinstance(one, list))) > IDS:
        raise ValueError(f"holds {ids} token ids, and a request may hold {IDS}")
    return many


def _even(temperature: float | None) -> float | None:
    if temperature is not None and 0 < temperature < 1e-20:
        raise ValueError("is too small to divide by: 0 is greedy")
    return temperature


def _at_most(most: int) -> BeforeValidator:
    """A bound of a list or an object that holds before any of it is looked at: pydantic finds every fault in it."""

    def check(said: Any) -> Any:
        if isinstance(said, list | dict) and len(said) > most:
            raise ValueError(f"holds {len(said)}, and may hold {most}")
        return said

    return BeforeValidator(check)


def _conversation(said: Any) -> Any:
    """Messages, whose calls of tools are bounded in all."""
    calls = [one.get("tool_calls") for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    if (count := sum(len(some) for some in calls if isinstance(some, list))) > MESSAGES:
        raise ValueError(f"hold {count} calls of tools, and may hold {MESSAGES}")
    return said


# Checked by what stands before: pydantic would look at each id again, and hold up all else while it does.
Prompts = Annotated[list[Any], BeforeValidator(_prompts)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class StreamOptions(Strict):
    include_usage: bool | None = None


class Schema(Strict):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class Format(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None

    @model_validator(mode="after")
    def _whole(self) -> Format:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing")
        return self


class Body(Strict):
    """What both routes that write take. Fields that are left out, or null, are as the model has them."""

    model: str = Field(min_length=1, max_length=512)
    max_tokens: int | None = Field(None, ge=1, le=1 << 24)
    temperature: Annotated[float | None, AfterValidator(_even)] = Field(None, ge=0, le=1000)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    stop: Annotated[list[str] | None, BeforeValidator(_stops)] = None
    logit_bias: Annotated[dict[int, float] | None, BeforeValidator(_biases)] = None
    n: int | None = Field(None, ge=1, le=CHOICES)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    likely: int | None = Field(None, ge=0, le=LIKELY)
    """Of each new token, how many of the likeliest candidates are told, and what each rule made of them."""
    fields: Annotated[dict[str, str] | None, _at_most(FIELDS)] = None
    """The columns of the task that the model was tuned on: its prompt is made of them."""
    raw: bool | None = None
    """The text is the prompt as it stands, whatever the model was tuned on."""
    contract: str | None = None
    """The hash of the prompt contract that the client counts on."""
    ignore_eos: bool | None = None
    """Writing goes on behind the token that ends a text, to max_tokens: so a load has the length that is asked for."""
    response_format: Format | None = None

    @model_validator(mode="after")
    def _streams(self) -> Body:
        if self.stream_options is not None and not self.stream:
            raise Refusal(400, "stream_options go with stream: true", param="stream_options")
        if self.ignore_eos and self.held:
            raise Refusal(400, "ignore_eos: a schema or a tool says where the answer ends", param="ignore_eos")
        for schema, param in self._schemas():
            if len(json.dumps(schema)) > SCHEMA:
                raise Refusal(400, f"{param} has a schema of over {SCHEMA} characters", param=param)
        return self

    def _schemas(self) -> list[tuple[Any, str]]:
        """All that a grammar is to be built of, and which field holds it."""
        said = self.response_format and self.response_format.json_schema
        return [(said.schema_, "response_format")] if said else []

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def usage_wanted(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def candidates(self) -> int:
        """How many of the likeliest tokens are asked for, in either form."""
        return max(self.top or 0, self.likely or 0)

    @property
    def told(self) -> bool:
        """Whether each token is told with its log-probability."""
        return self.top is not None or bool(self.likely)

    @property
    def top(self) -> int | None:
        """Candidates in OpenAI's form; None where not even the token's own log-probability is asked for."""
        return None

    @property
    def held(self) -> bool:
        """Whether the answer is held to a grammar."""
        return self.as_json is not None

    @property
    def as_json(self) -> tuple[dict[str, Any] | None] | None:
        """The JSON schema that the answer is to fit, (None,) for any JSON object; None where it is free."""
        if self.response_format is None or self.response_format.type == "text":
            return None
        return (self.response_format.json_schema.schema_ if self.response_format.json_schema else None,)

    @property
    def most(self) -> int | None:
        return self.max_tokens

    @property
    def sampling(self) -> dict[str, Any]:
        """Settings as `infer.sample.settings` has them; what was not said is None."""
        same = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
        found: dict[str, Any] = {name: getattr(self, name) for name in same}
        seed = None if self.seed is None else self.seed % (1 << 63)
        return found | {"max_new": self.most, "stop": self.stop and tuple(self.stop), "seed": seed}


class CompletionBody(Body):
    """/v1/completions."""

    prompt: Prompts | None = None
    logprobs: int | None = Field(None, ge=0, le=TOP)
    tools: Any = None
    """A conversation's, and refused here: passed over in silence, an answer would look as if none was wanted."""

    @model_validator(mode="after")
    def _something(self) -> CompletionBody:
        if self.tools:
            raise Refusal(400, "tools belong to a conversation: ask /v1/chat/completions", param="tools")
        if self.prompt is None and self.fields is None:
            raise Refusal(400, "prompt is missing: a text to continue (or fields, for a tuned model)", param="prompt")
        return self

    @property
    def top(self) -> int | None:
        return self.logprobs


# -- conversations -------------------------------------------------------------------------------------------------


class Called(Strict):
    name: str = Field(min_length=1, max_length=256)
    arguments: str


class Call(Strict):
    """An earlier call of a tool, as the client says it again."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: Called


def _content(said: Any) -> Any:
    """Text, or parts of text, as one text."""
    if said is None or isinstance(said, str):
        return said
    if not isinstance(said, list) or not all(isinstance(part, dict) for part in said):
        raise ValueError("is to be a text or a list of parts")
    for part in said:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError('may hold parts {"type": "text", "text": "..."} only: these models read text')
    return "".join(part["text"] for part in said)


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(_content)] = None
    name: str | None = None
    tool_calls: Annotated[list[Call] | None, _at_most(CALLS)] = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content is missing")
        return self

    @property
    def plain(self) -> dict[str, Any]:
        """As chat templates have it: what was called is an object, not its spelling."""
        role = "system" if self.role == "developer" else self.role
        found: dict[str, Any] = {"role": role, "content": self.content or ""}
        found |= {key: said for key in ("name", "tool_call_id") if (said := getattr(self, key)) is not None}
        if self.tool_calls:
            found["tool_calls"] = [_spoken(call) for call in self.tool_calls]
        return found


def _spoken(call: Call) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        arguments = call.function.arguments
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


class Function(Strict):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class Named(Strict):
    name: str


class Choice(Strict):
    type: Literal["function"]
    function: Named


class ChatBody(Body):
    """/v1/chat/completions."""

    messages: Annotated[list[Message], BeforeValidator(_conversation), _at_most(MESSAGES)] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=1 << 24)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=TOP)
    tools: Annotated[list[Tool] | None, _at_most(TOOLS)] = None
    tool_choice: Literal["none", "auto", "required"] | Choice | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _agrees(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise Refusal(400, "top_logprobs goes with logprobs: true", param="top_logprobs")
        names = [tool.function.name for tool in self.tools or ()]
        if not names and self.tool_choice not in (None, "none", "auto"):
            raise Refusal(400, "tool_choice asks for a tool, and there are no tools", param="tool_choice")
        if isinstance(self.tool_choice, Choice) and self.tool_choice.function.name not in names:
            raise Refusal(400, f"tool_choice asks for none of the tools {', '.join(names)}", param="tool_choice")
        if self.offered and self.as_json:
            raise Refusal(400, "an answer is JSON or a call: leave out tools or response_format", param="tools")
        return self

    def _schemas(self) -> list[tuple[Any, str]]:
        return [*((tool.function.parameters, "tools") for tool in self.tools or ()), *super()._schemas()]

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def most(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def held(self) -> bool:
        return bool(self.offered) or super().held

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that may be called, as the client said them."""
        return [] if self.tool_choice == "none" else [tool.model_dump(exclude_none=True) for tool in self.tools or ()]

    @property
    def choice(self) -> str | dict[str, Any]:
        """Which of them: "auto", "required", or one by its name."""
        said = self.tool_choice or "auto"
        return said if isinstance(said, str) else said.model_dump()


class EmbeddingBody(Strict):
    """/v1/embeddings. The client of OpenAI asks for base64 unless told otherwise."""

    model: str = Field(min_length=1, max_length=512)
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _whole(self) -> EmbeddingBody:
        if not all(self.input):
            raise Refusal(400, "input holds an empty text, which has no embedding", param="input")
        return self


# -- JSON -> requests ----------------------------------------------------------------------------------------------

Kind = TypeVar("Kind", bound=BaseModel)

# Fields of OpenAI's that ask for what is not done here, and the values of them that ask for nothing.
REFUSED: Mapping[type[BaseModel], Mapping[str, tuple[Any, ...]]] = {
    CompletionBody: {"best_of": (1,), "echo": (False,), "suffix": ("",)},
    ChatBody: {"functions": ([],), "function_call": ("none", "auto"), "audio": (), "modalities": (["text"],),
               "web_search_options": ()},
    EmbeddingBody: {},
}  # fmt: skip


def read(kind: type[Kind], body: bytes) -> Kind:
    """What a body asks of a route. Raises Refusal (400), which names the field."""
    said = parse(body)
    for name, nothing in REFUSED[kind].items():
        if said.get(name) is not None and not any(said[name] == value for value in nothing):
            raise Refusal(400, f"{name} is not supported: leave it out", param=name, code="unsupported_parameter")
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        raise _first(error, said) from None


def _first(error: ValidationError, said: Mapping[str, Any]) -> Refusal:
    """The first fault in one sentence: which field, and what it may be."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = _place(fault["loc"], said)
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return Refusal(400, f"{param} is missing", param=param, code="missing_required_parameter")
    return Refusal(400, f"{param}: {message[:1].lower()}{message[1:]}", param=param)


def _place(loc: tuple[int | str, ...], said: Any) -> str:
    """`messages.0.content`: the parts of a place that stand in the body, without what pydantic says of types."""
    found: list[str] = []
    for at, part in enumerate(loc):
        here = (isinstance(said, dict) and part in said) or (isinstance(said, list) and isinstance(part, int))
        if not here and at < len(loc) - 1:
            continue
        if here:
            said = said[part]
        if here or (isinstance(part, str) and not part.startswith(("literal", "function-", "constrained", "nullable"))):
            found.append(str(part))
    return ".".join(found)[:200] or "body"
