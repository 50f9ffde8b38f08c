"""What is served: names -> a model or an adapter, how it is asked, and which engine writes for it.

A client names what it wants, and the name is looked up here: it is never a path. A model that was tuned on a task
keeps the terms of its prompt contract beside its weights, and is asked by them: what was measured is what is served.
What only a model can refuse is refused here: a prompt that does not fit, a conversation without a chat template, a
schema without a grammar.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any

import torch

from modelwright.adapt.bank import Bank, asked_as, bank
from modelwright.adapt.lora import merged_copy
from modelwright.adapt.open import is_adapter, open_model, prompter_of, read_record
from modelwright.adapt.prompt import soft_ids
from modelwright.data.chat import chat_template, encode_chat, encode_turn
from modelwright.data.examples import Example
from modelwright.data.kind import NAMES, Task
from modelwright.data.prompt import Prompter
from modelwright.data.task import contract, of_terms
from modelwright.data.template import variables
from modelwright.hub.open import LanguageModel
from modelwright.infer.constrain import Constraint, json_grammar, tool_grammar
from modelwright.infer.engine import LONG, SIZE, Engine, Request, room
from modelwright.infer.packed import prepare
from modelwright.infer.sample import NEVER, Sampling, generators, settings
from modelwright.infer.text import banned, encode_prompts, eos_ids
from modelwright.model.transformer import Transformer
from modelwright.serve.protocol import Body, ChatBody, CompletionBody, EmbeddingBody, Refusal

NAME = re.compile(r"\w[\w.:-]*(/\w[\w.:-]*)*")
UNBOUND = 4096  # tokens of a prompt where positions are relative, and the context has no end
SCORES = 1 << 28  # bytes of a layer's attention scores there, which an encoder computes whole
EMBEDDED = 1 << 16  # tokens of the texts to embed in a request
KNOWN = 20  # names that a refusal lists
SEED = 53  # bits of one that is drawn: whoever reads JSON's numbers as JavaScript does can say it again


@dataclass(frozen=True)
class Reading:
    """A prompt as the model reads it, and the tokens that end what it writes; where a label is to be the answer, all
    that may be."""

    tokens: list[int]
    source: list[int] | None
    ends: frozenset[int]
    labels: Sequence[tuple[int, ...]] = ()

    @property
    def read(self) -> list[int]:
        return self.tokens if self.source is None else self.source


@dataclass(frozen=True)
class Order:
    """One continuation to be written, and by which engine; where there are labels, the likeliest of them.

    seed: by which the request's continuations can be drawn again; None where nothing is drawn.
    """

    engine: str
    request: Request
    stop: tuple[str, ...]
    labels: Sequence[tuple[int, ...]] = ()
    seed: int | None = None

    @property
    def weighed(self) -> list[Request]:
        """What tells how likely each label is."""
        asked = replace(self.request, likely=0, bias={}, scored=len(self.request.prompt))
        return [replace(asked, prompt=[*self.request.prompt, *label]) for label in self.labels]


@dataclass(frozen=True)
class Served:
    """One name. `engine` writes for it, which knows its adapter, if it has one, as `adapter`."""

    name: str
    lm: LanguageModel
    task: Task | None = None
    contract: str | None = None
    adapter_of: str | None = None
    engine: str = ""
    adapter: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def prompter(self) -> Prompter | None:
        return None if self.task is None else prompter_of(self.task, self.lm)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """What the prompt is made of, as the task's file calls it."""
        if self.task is None:
            return ()
        inputs, target = NAMES[self.task.kind]
        own = [self.task.columns[name] for name in inputs if name in self.task.columns]
        known = {*inputs, target, "labels", "context", *self.task.columns.values()}
        return (*own, *sorted(variables(self.task.prompts[0]) - known))

    @property
    def chats(self) -> bool:
        return self.writes and (self.task is not None or self._template)

    @property
    def writes(self) -> bool:
        return self.lm.model.cfg.shape != "encoder" and self.lm.model.cfg.labels is None

    @property
    def _template(self) -> bool:
        return self.lm.model.cfg.shape == "decoder" and chat_template(self.lm.tokenizer) is not None

    @property
    def json(self) -> dict[str, Any]:
        cfg = self.lm.model.cfg
        own = {
            "shape": cfg.shape, "chat": self.chats, "context": (cfg.encoder or cfg).context,
            "adapter_of": self.adapter_of, "contract": self.contract, "columns": list(self.columns) or None,
            "labels": list(self.labels) or None, "vocabulary": cfg.vocab, "sampling": self.own,
        }  # fmt: skip
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "modelwright",
                "modelwright": own}  # fmt: skip

    @property
    def labels(self) -> Sequence[str]:
        """Those that it chooses among, where it was tuned to."""
        return self.task.labels if self.task is not None and self.task.kind == "classify" and self.writes else ()

    @property
    def own(self) -> dict[str, Any] | None:
        """What holds where a request says nothing, under the names of its fields; None where there is no such."""
        if self.labels or not self.writes:
            return None
        try:
            sampling = Sampling(**asdict(self.task.decoding)) if self.task else settings(self.lm.generation)
        except ValueError:  # a generation_config.json that cannot be followed: who asks is told
            return None
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        return {"max_tokens": sampling.max_new, **{name: getattr(sampling, name) for name in names}}

    # -- prompts

    def prompts(self, body: CompletionBody) -> list[Reading]:
        """The prompts of a completion, in order. Raises Refusal."""
        self._check(body)
        if body.prompt is not None and body.fields is not None:
            raise Refusal(400, "prompt and fields are both there: say one of them", param="fields")
        if body.fields is not None:
            return [self._by_contract(body.fields)]
        said = body.prompt or []
        by_contract = self.task is not None and not body.raw
        return [self._by_contract(self._column(one)) if by_contract else self._plain(one) for one in said]

    def conversation(self, body: ChatBody) -> Reading:
        """The prompt of a conversation. Raises Refusal."""
        self._check(body)
        if self.task is not None and not body.raw:
            if body.offered:
                raise Refusal(400, f"{self.name} was tuned on a task, which has no tools", param="tools")
            return self._by_contract(self._column(self._only(body)) if body.fields is None else body.fields)
        if not self._template:
            raise Refusal(
                400,
                f"{self.name} has no chat template, so it holds no conversation: ask /v1/completions",
                param="model",
            )
        tools = body.offered or None
        self._check_size([said.content or "" for said in body.messages], "messages")
        try:
            ids = encode_chat(self.lm.tokenizer, [said.plain for said in body.messages], True, tools).ids
        except ValueError as error:
            raise Refusal(400, str(error), param="messages") from None
        return Reading([*soft_ids(self.lm.model), *ids], None, self._ends | self._turn)

    def _check(self, body: Body) -> None:
        """Raises Refusal for what this model cannot be asked, whatever the prompt."""
        if not self.writes:
            what = "answers with labels" if self.lm.model.cfg.labels else "is an encoder"
            raise Refusal(400, f"{self.name} {what}, and writes no text: ask /v1/embeddings", param="model")
        if body.contract is not None and body.contract != self.contract:
            raise Refusal(
                409, f"{self.name} is asked by the contract {self.contract or '(none)'}, not by {body.contract[:80]}",
                param="contract", code="contract_mismatch",
            )  # fmt: skip
        if body.fields is not None and (self.task is None or body.raw):
            why = "raw: true takes the text as it stands" if self.task else f"{self.name} was not tuned on a task"
            raise Refusal(400, f"fields make a prompt by a task's contract, and {why}", param="fields")
        vocab = self.lm.model.cfg.vocab
        if beyond := [token for token in body.logit_bias or () if token >= vocab]:
            raise Refusal(
                400, f"logit_bias names the token {beyond[0]}, and the last is {vocab - 1}", param="logit_bias"
            )

    @cached_property
    def reads(self) -> int:
        """The tokens that are read of a prompt at most. Relative positions have no end: the scores (H, S, S) set it."""
        cfg = self.lm.model.cfg.encoder or self.lm.model.cfg
        return cfg.context if not cfg.unbounded else min(UNBOUND, isqrt(SCORES // (4 * cfg.heads)))

    def _check_size(self, texts: Iterable[str], param: str) -> None:
        """Raises Refusal for texts that cannot fit, whatever their tokens: to find those would take long."""
        size = sum(map(len, texts))
        least = -(-size // self._longest)
        if least >= self.reads:
            raise Refusal(
                400, f"the prompt has {size} characters, which are {least} tokens or more, but the model's context is "
                f"{self.reads}: shorten it", param=param, code="context_length_exceeded",
            )  # fmt: skip

    @cached_property
    def _longest(self) -> int:
        """Characters that a token of a text stands for at most."""
        inner, special = self.lm.tokenizer.inner, self.lm.tokenizer.special
        return max(len(token) for token, number in inner.get_vocab().items() if number not in special)

    def _plain(self, prompt: str | list[int]) -> Reading:
        """A prompt as it stands: a text, or ids."""
        try:
            if isinstance(prompt, str):
                self._check_size([prompt], "prompt")
                encoded = encode_prompts(self.lm, [prompt])
                return Reading(encoded.prompts[0], encoded.sources[0] if encoded.sources else None, self._ends)
        except ValueError as error:
            raise Refusal(400, str(error), param="prompt", code=too_long(error)) from None
        cfg = self.lm.model.cfg
        if max(prompt) >= cfg.vocab:
            raise Refusal(400, f"prompt holds the id {max(prompt)}, and the last is {cfg.vocab - 1}", param="prompt")
        ids = [*soft_ids(self.lm.model), *prompt]
        if cfg.encoder is None:
            return Reading(ids, None, self._ends)
        return Reading(encode_prompts(self.lm, ["a"]).prompts[0], ids, self._ends)

    def _by_contract(self, fields: Mapping[str, str]) -> Reading:
        """The prompt of a task's columns, as it was trained and measured; but what is too long is refused, not cut."""
        assert self.task is not None
        assert self.prompter is not None
        example = Example("the request", self._canonical(fields))
        self._check_size(fields.values(), "fields")
        try:
            prompt = self.prompter.prompt(example)
        except ValueError as error:
            raise Refusal(400, str(error), param="fields", code=too_long(error)) from None
        read = prompt.tokens if prompt.source is None else prompt.source
        if prompt.truncated:
            long, most = len(read) + prompt.truncated, self.prompter.context
            kept = "" if prompt.source else f", {self.task.decoding.max_new} of them kept for the answer"
            raise Refusal(
                400, f"the prompt has {long} tokens, but the model's context is {most}{kept}: shorten the text",
                param="fields", code="context_length_exceeded",
            )  # fmt: skip
        ends = self._ends | ({self.prompter.end} if self.prompter.end >= 0 else set())
        labels = self.prompter.labels(example) if self.labels else ()
        source = None if prompt.source is None else list(prompt.source)
        return Reading(list(prompt.tokens), source, frozenset(ends), labels)

    def _canonical(self, fields: Mapping[str, str]) -> dict[str, str]:
        """Columns under the task's names and the file's. Raises Refusal for one that lacks, or is unknown."""
        assert self.task is not None
        other = {column: name for name, column in self.task.columns.items()}
        named = {self.task.columns.get(name, name): text for name, text in fields.items()}
        lacking = [column for column in self.columns if column not in named]
        unknown = [name for name in named if name not in self.columns]
        if lacking or unknown:
            what = f"lack {lacking[0]!r}" if lacking else f"hold {unknown[0][:80]!r}, which no prompt asks for"
            raise Refusal(400, f"fields {what}: {self.name} is asked by {', '.join(self.columns)}", param="fields")
        return named | {other[column]: text for column, text in named.items() if column in other}

    def _column(self, said: str | list[int]) -> dict[str, str]:
        """A plain prompt as the task's one column."""
        if not isinstance(said, str):
            raise Refusal(
                400, f"{self.name} is asked by its contract: give it text, or say raw: true with ids", param="prompt"
            )
        if len(self.columns) != 1:
            named = ", ".join(self.columns)
            raise Refusal(400, f"{self.name} is asked by several columns: give fields with {named}", param="fields")
        return {self.columns[0]: said}

    def _only(self, body: ChatBody) -> str:
        if len(body.messages) != 1 or body.messages[0].role != "user":
            raise Refusal(
                400, f"{self.name} was tuned on a task and answers one message of a user, not a conversation: say "
                "raw: true to leave its task", param="messages",
            )  # fmt: skip
        return body.messages[0].content or ""

    @cached_property
    def _ends(self) -> frozenset[int]:
        return eos_ids(self.lm)

    @cached_property
    def _turn(self) -> frozenset[int]:
        """The token that ends an assistant's turn, where the template sets one."""
        end = encode_turn(self.lm.tokenizer, [{"role": "user", "content": "a"}], "b").end
        return frozenset(() if end is None else (end,))

    # -- how it is written

    def sampling(self, body: Body) -> Sampling:
        """What is said, else what the contract says, else what the model's own settings say."""
        said = {name: value for name, value in body.sampling.items() if value is not None}
        try:
            if self.task is not None and not body.raw:
                asked_for = Sampling(**asdict(self.task.decoding) | said)
            else:
                n = None if body.temperature == 0 or body.choices == 1 else body.choices
                asked_for = settings(self.lm.generation, **said, n=n)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        if asked_for.beams > 1:
            raise Refusal(400, f"this model's contract answers by {asked_for.beams} beams, which a server does not "
                          "search: measure it with `modelwright evaluate`, or ask it with raw")  # fmt: skip
        return replace(asked_for, n=1, logprobs=body.told)

    def grammar(self, body: Body, ends: Collection[int]) -> Constraint | None:
        """What the answer is held to. Raises Refusal where that cannot be."""
        if not body.held:
            return None
        param = "response_format" if body.as_json else "tools"
        try:
            if body.as_json:
                return json_grammar(self.lm.tokenizer, body.as_json[0], ends)
            assert isinstance(body, ChatBody)
            named = not isinstance(body.choice, str)  # and called once
            parallel = body.parallel_tool_calls is not False and not named
            return tool_grammar(self.lm.tokenizer, body.offered, body.choice, parallel, ends)
        except ValueError as error:
            raise Refusal(400, f"{param}: {error}", param=param) from None

    def grammars(self, body: Body, ends: Collection[int], count: int) -> list[Constraint | None]:
        """One for each choice, of which the first is built, and the others are copies of it. Raises Refusal."""
        first = self.grammar(body, ends)
        return [first, *(first and first.fresh() for _ in range(count - 1))]

    def texts(self, body: EmbeddingBody) -> list[list[int]]:
        """The ids of what is to be embedded. Raises Refusal."""
        width, vocab = self.lm.model.cfg.width, self.lm.model.cfg.vocab
        if body.dimensions not in (None, width):
            raise Refusal(400, f"the embeddings of {self.name} have {width} dimensions", param="dimensions")
        _check_embedded(sum(len(one) // (self._longest if isinstance(one, str) else 1) for one in body.input))
        rows = [self.lm.tokenizer.encode(one, special=True) if isinstance(one, str) else one for one in body.input]
        _check_embedded(sum(map(len, rows)))
        for row in rows:
            if not row or max(row) >= vocab:
                raise Refusal(400, f"input holds no token, or one beyond {vocab - 1}, the last", param="input")
        return rows


def _check_embedded(size: int) -> None:
    if size > EMBEDDED:
        raise Refusal(
            400, f"input has {size} tokens or more, and a request may hold {EMBEDDED}: ask in parts", param="input"
        )


def too_long(error: ValueError) -> str | None:
    return "context_length_exceeded" if re.search(r"prompt .*\d+ tokens", str(error)) else None


# -- all names -----------------------------------------------------------------------------------------------------


class Registry:
    """What is served, by name, and the engines that write for it."""

    def __init__(self, served: Sequence[Served], *, slots: int = 32, int8: bool = False) -> None:
        """slots: texts that are computed together; int8: as `infer.packed`'s."""
        self.served, self.engines = started(served, slots, int8)

    def get(self, name: str) -> Served:
        """Raises Refusal (404)."""
        if (found := self.served.get(name)) is None:
            there = ", ".join(list(self.served)[:KNOWN])
            raise Refusal(
                404, f"there is no model {name[:80]!r}: there is {there}", param="model", code="model_not_found"
            )
        return found

    def orders(self, served: Served, body: Body, owner: str | None = None) -> tuple[list[Order], int]:
        """What is to be written for a request, choice by choice, and how many tokens the prompts have.

        Choice j of prompt i is i * n + j. owner: the key that it came with, whose texts no other's time tells of.
        Raises Refusal.
        """
        chat = isinstance(body, ChatBody)
        readings = [served.conversation(body)] if isinstance(body, ChatBody) else []
        readings = served.prompts(body) if isinstance(body, CompletionBody) else readings
        sampling = served.sampling(body)
        if longest := max((len(label) for reading in readings for label in reading.labels), default=0):
            sampling = choosing(sampling, body, longest)
        for reading in readings:
            self._check_room(served, reading, sampling, "messages" if chat else "prompt")
        n, seed = body.choices, secrets.randbits(SEED) if sampling.seed is None else sampling.seed
        random = generators([reading.read for reading in readings], n, seed)
        alike = replace(sampling, stop=(), seed=None)  # what is drawn together has the same settings
        grammars = served.grammars(body, readings[0].ends, len(random))  # a conversation is one reading
        bias = dict.fromkeys(banned(served.lm), NEVER) | (body.logit_bias or {})
        orders = []
        for row, generator in enumerate(random):
            reading = readings[row // n]
            ends = () if body.ignore_eos and not reading.labels else reading.ends
            request = Request(
                reading.tokens, alike, reading.source, ends, generator=generator, likely=body.candidates,
                bias=bias, grammar=grammars[row], adapter=served.adapter, owner=owner,
            )  # fmt: skip
            told = None if sampling.greedy else seed
            orders.append(Order(served.engine, request, sampling.stop, reading.labels, told))
        return orders, sum(len(reading.read) - len(soft_ids(served.lm.model)) for reading in readings)

    def _check_room(self, served: Served, reading: Reading, sampling: Sampling, param: str) -> None:
        if (reading.source is not None or served.lm.model.cfg.unbounded) and len(reading.read) > served.reads:
            said = f"the prompt has {len(reading.read)} tokens, but the model reads {served.reads}: shorten it"
            raise Refusal(400, said, param=param, code="context_length_exceeded")
        engine = self.engines[served.engine]
        holds = engine.pages.size * engine.scheduler.blocks.count
        try:
            whole = len(reading.tokens) + room(engine.cfg, len(reading.tokens), sampling.max_new)
        except ValueError as error:
            raise Refusal(400, str(error), param=param, code="context_length_exceeded") from None
        if whole > holds:
            said = f"the request may come to {whole} tokens, and the server's cache holds {holds}: lower max_tokens"
            raise Refusal(400, said, param="max_tokens")


def choosing(sampling: Sampling, body: Body, longest: int) -> Sampling:
    """How a label of at most `longest` tokens is written: it was chosen, and nothing of it is drawn. Raises Refusal."""
    if body.held:
        raise Refusal(
            400, "this model chooses among the labels of its task: they follow no schema", param="response_format"
        )
    return replace(sampling, max_new=longest, temperature=0.0, stop=())


def started(served: Sequence[Served], slots: int, int8: bool) -> tuple[dict[str, Served], dict[str, Engine]]:
    """Every name with its engine: one for a model and those of its adapters that write, beside the same weights."""
    found, engines = {}, {}
    for base in served:
        if base.adapter_of is not None and base.writes:
            continue
        own = {one.name: one for one in served if one.adapter_of == base.name and one.writes}
        ready = prepare(merged_copy(base.lm.model), int8 and base.writes)
        beside = bank(ready, {name: one.lm.model for name, one in own.items()}) if own else None
        engines[base.name] = engine(base, ready, slots, beside)
        found[base.name] = replace(base, engine=base.name)
        for name, one in own.items():
            lm = replace(one.lm, model=asked_as(base.lm.model, beside.soft(name) if beside else ()))
            found[name] = replace(one, lm=lm, engine=base.name, adapter=name)
    return {one.name: found[one.name] for one in served}, engines


def engine(served: Served, ready: Transformer, slots: int, beside: Bank | None) -> Engine:
    """With room for LONG tokens of each text, or the context where it is shorter; for one whole context at least."""
    context = served.lm.model.cfg.context
    each = LONG if served.lm.model.cfg.unbounded else min(context, LONG)
    blocks = max(slots * -(-each // SIZE), -(-context // SIZE) + 1)
    return Engine(ready, longest=each, blocks=blocks, texts=slots, bank=beside)


# -- opening -------------------------------------------------------------------------------------------------------


def open_served(
    model: str,
    name: str,
    adapters: Mapping[str, str] | None = None,
    tasks: Sequence[Task] = (),
    dtype: torch.dtype | None = None,
) -> list[Served]:
    """A model and its adapters, each asked as its record says.

    tasks: of artefacts that record only their contract's hash; one that matches none of them is the model's own, where
    that has no contract. Raises ValueError for a name that is none, or is there twice, for a contract whose terms are
    not known, and for a task that nothing was tuned on.
    """
    paths = {name: model} | dict(adapters or {})
    if len(paths) < 1 + len(adapters or {}):
        raise ValueError(f"{name} is the model's name and an adapter's: give the adapter another")
    if wrong := next((one for one in paths if not NAME.fullmatch(one)), None):
        raise ValueError(f"{wrong!r} is no name to serve by: take letters, digits and . : - _ /")
    found, used = [], list[Task]()
    for one, path in paths.items():
        lm = open_model(path, dtype=dtype) if one == name else open_adapter(path, model, dtype)
        task, hashed = contract_of(one, lm, tasks)
        used += [] if task is None else [task]
        found.append(Served(one, lm, task, hashed, None if one == name else name))
    return with_own(found, [task for task in tasks if task not in used])


def with_own(served: list[Served], left: Sequence[Task]) -> list[Served]:
    """A task that nothing was tuned on is how the model itself is asked, if it was not tuned on another."""
    if not left:
        return served
    first, *rest = served
    if len(left) > 1 or first.contract is not None:
        there = ", ".join(f"{one.name} {one.contract[:12]}…" for one in served if one.contract)
        now = contract(left[-1], first.lm.tokenizer)[:12]
        raise ValueError(
            f"the task {left[-1].name} has the contract {now}…, and nothing here was tuned by it ({there}): take the "
            "task as it was then"
        )
    return [replace(first, task=left[0], contract=contract(left[0], first.lm.tokenizer)), *rest]


def open_adapter(path: str, base: str, dtype: torch.dtype | None) -> LanguageModel:
    if not is_adapter(path):
        raise ValueError(f"{path} is no adapter: it has no adapter_config.json")
    return open_model(path, base=base, dtype=dtype)


def contract_of(name: str, lm: LanguageModel, tasks: Sequence[Task]) -> tuple[Task | None, str | None]:
    """The task that an artefact is asked by, and the hash of its contract; (None, None) where it has none."""
    record = read_record(lm.path or Path())
    wanted, said = record.get("contract"), record.get("terms")
    if wanted is None:
        return None, None
    known = [of_terms(said, name)] if said is not None else list(tasks)
    if task := next((task for task in known if contract(task, lm.tokenizer) == wanted), None):
        return task, wanted
    if said is not None:
        raise ValueError(f"{name} keeps terms that are not those of its contract {wanted[:12]}…: it was changed since")
    hashes = ", ".join(contract(task, lm.tokenizer)[:12] + "…" for task in tasks)
    there = f"; those that were named have {hashes}" if hashes else ""
    raise ValueError(
        f"{name} was tuned by the contract {wanted[:12]}… and does not keep its terms: say --task with the task file "
        f"that it was tuned on{there}"
    )
