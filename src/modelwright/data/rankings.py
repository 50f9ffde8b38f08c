"""Rankings of completions, and the files that hold them: our own rows, Label Studio's JSON, Argilla's.

    {"prompt": "...", "completions": ["...", "..."], "ranks": [2, 1], "labeller": "Anna"}

is a row of ours, which `data.preferences` reads; `prompt` may be a list of messages. The other two are read and
written as their own documentation has them:

- Label Studio: a list of tasks; `data` has the prompt and a List of items, each annotation the result of a Ranker. An
  order without ties is `{"ranker": {"rank": [ids]}}`, best first; a Ranker cannot tie, so where a file has a tie its
  Buckets `rank-1`, `rank-2` ... do. Results of Pairwise ("selected": "left") are read too.
- Argilla: a list of records, as `dataset.records.to_json` writes them and `from_json` reads them; the completions are
  fields, and the response to a RankingQuestion names these fields, best first. Its lists have no ties: our own ranks
  and the labellers' names stand beside, under `modelwright`, which Argilla passes over. Records of its HTTP API, and of
  Argilla 1, have ranks and are read with them.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modelwright.data.examples import Example, read_examples
from modelwright.data.judgements import dense

Form = Literal["pairs", "label-studio", "argilla"]
Prompt = str | tuple[Mapping[str, str], ...]  # a text, or messages with role and content
QUESTION = "ranking"
PROMPTS = ("prompt", "instruction", "question", "input", "text")  # what others call the prompt, the likeliest first


@dataclass(frozen=True)
class Item:
    """What is put before labellers: a prompt, and K completions of which no two are the same text.

    writers: of each completion, the models that wrote it, so many times as they did. fields: further columns of the
    row that the prompt was made of.
    """

    id: str
    prompt: Prompt
    completions: tuple[str, ...]
    writers: tuple[tuple[str, ...], ...]
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """What one labeller made of K completions of a prompt: ranks (K,), 1 the best, equal for a tie.

    fields: further columns of the row that the prompt was made of.
    """

    prompt: Prompt
    completions: tuple[str, ...]
    ranks: tuple[int, ...]
    labeller: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tied(self) -> bool:
        return len(set(self.ranks)) < len(self.ranks)


def as_text(prompt: Prompt) -> str:
    """A prompt as one text: of several messages, each with who says it.

    >>> as_text(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}))
    'System: Be brief.\\n\\nUser: Hi?'
    """
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n\n".join(f"{said['role'].capitalize()}: {said['content']}" for said in prompt)


def prompt_of(value: Any, where: str) -> Prompt:
    """Raises ValueError for what is neither a text nor messages, and for one in which nothing is said."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list | tuple) and value and all(_is_message(one) for one in value):
        return tuple({"role": one["role"], "content": one["content"]} for one in value)
    raise ValueError(f"{where}: the prompt is to be a text, or messages with role and content, and not {_few(value)}")


def _is_message(said: Any) -> bool:
    return isinstance(said, Mapping) and all(isinstance(said.get(name), str) for name in ("role", "content"))


def _few(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else said[:59] + "…"


# -- files ---------------------------------------------------------------------------------------------------------


def read_rankings(path: Path, form: Form) -> list[Ranking]:
    """Raises FileNotFoundError, and ValueError in one sentence for what is not in this form or holds no ranking."""
    if form == "pairs":
        found = [_of_row(example) for example in read_examples(str(path))]
    else:
        read = _of_task if form == "label-studio" else _of_record
        found = [one for at, said in enumerate(_records(path), 1) for one in _read(read, said, f"{path.name}:{at}")]
    if not found:
        raise ValueError(f"{path} holds no ranking: nobody has ranked any of its prompts, or all were skipped")
    return found


def written(rankings: Sequence[Ranking], form: Form) -> str:
    """The text of a file in this form: JSON Lines of our rows, or one list."""
    if form == "pairs":
        return "".join(json.dumps(row(one), ensure_ascii=False) + "\n" for one in rankings)
    make = _tasks if form == "label-studio" else _argilla
    return json.dumps(make(rankings), ensure_ascii=False, indent=1) + "\n"


def _records(path: Path) -> list[Any]:
    """The objects of a JSON list, or one a line."""
    try:
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("["):
            found: list[Any] = json.loads(text)
            return found
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:  # of bytes that are no UTF-8, too
        raise ValueError(f"{path} is neither a JSON list nor JSON Lines: {error}") from None


def _by_prompt(rankings: Iterable[Ranking]) -> dict[str, list[Ranking]]:
    """Those of one prompt and the same completions together."""
    found: dict[str, list[Ranking]] = {}
    for one in rankings:
        key = json.dumps([one.prompt, one.completions], ensure_ascii=False)
        found.setdefault(key, []).append(one)
    return found


def _short(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:10]


def _order(ranks: Sequence[int]) -> list[int]:
    """The places, best first; those of a tie as they stand."""
    return sorted(range(len(ranks)), key=lambda at: ranks[at])


# -- our rows ------------------------------------------------------------------------------------------------------


def row(ranking: Ranking) -> dict[str, Any]:
    said = {"completions": list(ranking.completions), "ranks": list(ranking.ranks), "labeller": ranking.labeller}
    prompt = ranking.prompt if isinstance(ranking.prompt, str) else list(ranking.prompt)
    return {"prompt": prompt, **ranking.fields, **said}


def _of_row(example: Example) -> Ranking:
    said = dict(example.fields)
    prompt = prompt_of(said.pop("prompt", None), example.id)
    texts, ranks, who = said.pop("completions", None), said.pop("ranks", None), said.pop("labeller", "")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{example.id}: completions are a list of texts, and not {_few(texts)}")
    if not isinstance(ranks, list) or len(ranks) != len(texts) or not all(isinstance(r, int | float) for r in ranks):
        raise ValueError(f"{example.id}: ranks are one number for each completion, 1 the best, and not {_few(ranks)}")
    return Ranking(prompt, tuple(texts), dense(ranks), str(who), said)


# -- Label Studio --------------------------------------------------------------------------------------------------


def label_config(rankings: Sequence[Ranking]) -> str:
    """The labelling interface that shows such tasks; one line, to be pasted into a project's settings."""
    most = max((max(one.ranks) for one in rankings), default=0)
    buckets = [f'<Bucket name="rank-{at}" title="{at}"/>' for at in range(1, most + 1)]
    inner = "".join(buckets) if any(one.tied for one in rankings) else ""
    return (
        '<View><Text name="prompt" value="$prompt"/><List name="answers" value="$answers" title="Answers"/>'
        f'<Ranker name="rank" toName="answers">{inner}</Ranker></View>'
    )


def _tasks(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """A file has one interface, and so one form for all: Buckets as soon as there is a tie."""
    tied = any(one.tied for one in rankings)
    return [_task(some, tied) for some in _by_prompt(rankings).values()]


def _task(some: Sequence[Ranking], tied: bool) -> dict[str, Any]:
    first = some[0]
    items = [{"id": f"answer-{at}", "title": "", "body": text} for at, text in enumerate(first.completions, 1)]
    more = {} if isinstance(first.prompt, str) else {"messages": list(first.prompt)}
    data = {"prompt": as_text(first.prompt), **more, "answers": items, "fields": dict(first.fields)}
    return {"data": data, "annotations": [{"result": [_result(one, tied)]} for one in some]}


def _result(one: Ranking, tied: bool) -> dict[str, Any]:
    names = [f"answer-{at}" for at in range(1, len(one.completions) + 1)]
    ranked: dict[str, list[str]] = {}
    for at in _order(one.ranks):
        ranked.setdefault(f"rank-{one.ranks[at]}" if tied else "rank", []).append(names[at])
    return {
        "id": _short(one.labeller, as_text(one.prompt), *one.completions), "from_name": "rank", "to_name": "answers",
        "type": "ranker", "value": {"ranker": ranked}, "meta": {"text": [one.labeller]},
    }  # fmt: skip


def _read(read: Callable[[Any, str], Iterable[Ranking]], said: Any, where: str) -> list[Ranking]:
    try:
        return list(read(said, where))
    except (AttributeError, TypeError, KeyError) as error:  # a list where an object is to be, or the other way round
        raise ValueError(f"{where} is not as its tool writes it: {error}") from error


def _of_task(said: Any, where: str) -> Iterator[Ranking]:
    data = said.get("data") if isinstance(said, Mapping) else None
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} is no task of Label Studio: it has data and annotations (export as JSON, not CSV)")
    for annotation in said.get("annotations") or ():
        if annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or ():
            if result.get("type") in ("ranker", "pairwise"):
                read = _ranker if result["type"] == "ranker" else _pairwise
                texts, ranks = read(data, result.get("value") or {}, where)
                prompt = prompt_of(data.get("messages", _prompt_in(data)), where)
                who = _who(annotation, result)
                yield Ranking(prompt, tuple(texts), dense(ranks), who, data.get("fields") or {})


def _prompt_in(data: Mapping[str, Any]) -> Any:
    return next((data[name] for name in PROMPTS if name in data), None)


def _ranker(data: Mapping[str, Any], value: Mapping[str, Any], where: str) -> tuple[list[str], list[int]]:
    """Texts and ranks of the items that were ranked; `_` is Label Studio's name for those that were not."""
    ranked = {name: ids for name, ids in (value.get("ranker") or {}).items() if name != "_"}
    if len(ranked) == 1 and not re.fullmatch(r"rank-\d+", next(iter(ranked))):
        ranks = {item: at for at, item in enumerate(next(iter(ranked.values())), 1)}
    elif wrong := next((name for name in ranked if not re.fullmatch(r"rank-\d+", name)), None):
        raise ValueError(f"{where}: the bucket {wrong!r} is no rank: name the buckets rank-1, rank-2 ..., 1 the best")
    else:
        ranks = {item: int(name.removeprefix("rank-")) for name, ids in ranked.items() for item in ids}
    items = next((value for value in data.values() if isinstance(value, list) and _are_items(value)), [])
    texts = {str(item["id"]): str(item.get("body") or item.get("title") or item.get("html") or "") for item in items}
    if lost := [item for item in ranks if item not in texts]:
        raise ValueError(f"{where}: {lost[0]!r} is ranked and is none of the task's items ({', '.join(texts)})")
    kept = [item for item in texts if item in ranks]
    return [texts[item] for item in kept], [ranks[item] for item in kept]


def _are_items(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(one, Mapping) and "id" in one for one in value)


def _pairwise(data: Mapping[str, Any], value: Mapping[str, Any], where: str) -> tuple[list[str], list[int]]:
    prompt = next((name for name in PROMPTS if name in data), None)
    texts = [text for name, text in data.items() if isinstance(text, str) and name != prompt]
    if len(texts) != 2 or value.get("selected") not in ("left", "right"):
        raise ValueError(
            f"{where}: a comparison of a pair has a prompt, two texts and left or right, and its data are "
            f"{', '.join(map(str, data))}, its choice {value.get('selected')!r}"
        )
    return texts, [1, 2] if value["selected"] == "left" else [2, 1]


def _who(annotation: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Our own note of the labeller, or else Label Studio's user."""
    noted = (result.get("meta") or {}).get("text") or []
    by = annotation.get("completed_by")
    if isinstance(by, Mapping):
        by = by.get("email") or by.get("id")
    return str(noted[0]) if noted else "" if by is None else str(by)


# -- Argilla -------------------------------------------------------------------------------------------------------


def _argilla(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    return [_record(some) for some in _by_prompt(rankings).values()]


def _record(some: Sequence[Ranking]) -> dict[str, Any]:
    first = some[0]
    names = [f"completion-{at}" for at in range(1, len(first.completions) + 1)]
    users = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"modelwright:{one.labeller}")) for one in some]
    responses = [
        {"value": [names[at] for at in _order(one.ranks)], "user_id": user, "status": "submitted"}
        for one, user in zip(some, users, strict=True)
    ]
    own = {
        "prompt": first.prompt if isinstance(first.prompt, str) else list(first.prompt),
        "labellers": dict(zip(users, (one.labeller for one in some), strict=True)),
        "ranks": dict(zip(users, (list(one.ranks) for one in some), strict=True)),
        "fields": dict(first.fields),
    }
    fields = {"prompt": as_text(first.prompt), **dict(zip(names, first.completions, strict=True))}
    return {
        "id": _short(as_text(first.prompt), *first.completions), "fields": fields, "metadata": {}, "suggestions": {},
        "responses": {QUESTION: responses}, "vectors": {}, "modelwright": own,
    }  # fmt: skip


def _of_record(said: Any, where: str) -> Iterator[Ranking]:
    fields = said.get("fields") if isinstance(said, Mapping) else None
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where} is no record of Argilla: it has fields and responses (dataset.records.to_json)")
    own = said.get("modelwright") or {}
    for user, value in _responses(said.get("responses") or {}, where):
        ranks = _ranks(value, fields, where)
        prompt = prompt_of(own.get("prompt", _left_over(fields, ranks)), where)
        given = own.get("ranks", {}).get(user) or list(ranks.values())
        texts = tuple(str(fields[name]) for name in ranks)
        who = own.get("labellers", {}).get(user, user)
        yield Ranking(prompt, texts, dense(given), who, own.get("fields") or {})


def _responses(said: Any, where: str) -> Iterator[tuple[str, list[Any]]]:
    """(user, value) of each submitted response to the one question that ranks: of `{question: [response]}` as the SDK
    writes it, or of a list with each user's `values`, as the HTTP API and Argilla 1 have it."""
    if isinstance(said, Mapping):
        every = [(name, one, one.get("value")) for name, some in said.items() for one in some or ()]
    else:
        every = [(name, one, part.get("value")) for one in said for name, part in (one.get("values") or {}).items()]
    ranked = [(name, one, value) for name, one, value in every if isinstance(value, list)]
    if len(names := {name for name, _, _ in ranked}) > 1:
        raise ValueError(f"{where} has several questions that rank ({', '.join(sorted(names))}): leave one of them")
    for _, one, value in ranked:
        if one.get("status") in (None, "submitted"):
            yield str(one.get("user_id")), value


def _ranks(value: Sequence[Any], fields: Mapping[str, Any], where: str) -> dict[str, int]:
    """Field -> rank, in the fields' order. An option is the name of a field, perhaps with other signs in it."""
    known = {_plain(name): name for name in fields}
    found: dict[str, int] = {}
    for at, one in enumerate(value, 1):
        option, rank = (one.get("value"), one.get("rank") or at) if isinstance(one, Mapping) else (one, at)
        if _plain(str(option)) not in known:
            raise ValueError(f"{where}: {option!r} is ranked and is none of the fields {', '.join(fields)}")
        found[known[_plain(str(option))]] = int(rank)
    return {name: found[name] for name in fields if name in found}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def _left_over(fields: Mapping[str, Any], ranks: Mapping[str, int]) -> Any:
    """The field that is no option: the prompt; of several, the one that is called so."""
    rest = {name: text for name, text in fields.items() if name not in ranks}
    return next(iter(rest.values())) if len(rest) == 1 else _prompt_in(rest)
