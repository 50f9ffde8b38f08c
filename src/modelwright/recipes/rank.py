"""`modelwright rank`: people rank several answers to each prompt, on a page.

    1. read the prompts; 2. have the models write n answers to each, or read answers; 3. show them blind, each labeller
    in an order of its own, and write every judgement down before it is answered; 4. tell how far labellers agree.

`export` writes the rankings down for training, Label Studio or Argilla; `import` reads theirs.

Left out: drawing that goes on where it was stopped, accounts and passwords of labellers, a round that chooses its next
prompt by what was judged, TLS (put a proxy before it).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from modelwright.adapt.open import open_model
from modelwright.data.judgements import Judgement, rankings
from modelwright.data.rankings import Form, Item, label_config, read_rankings, written
from modelwright.data.task import read_task
from modelwright.infer.sample import Sampling
from modelwright.recipes.answers import KEYS, Asked, columns_of, draw, item_of, read_answers, read_prompts, share
from modelwright.recipes.flags import parse
from modelwright.recipes.ranked import (
    agreed,
    as_rankings,
    begun,
    file_digest,
    load_items,
    load_judgements,
    model_record,
    open_journal,
    save_items,
    told,
)
from modelwright.recipes.serve import address_of, keys_for
from modelwright.recipes.watch import Screen, write_whole
from modelwright.serve.labelling import Round
from modelwright.serve.ranking import run
from modelwright.serve.server import Limits, listening

DIRECTORY = Path("runs/rank")


@dataclass(frozen=True)
class Rank:
    """Have people rank several answers to each prompt on a page of their browser; export and import rankings."""

    what: Annotated[
        Literal["export", "import"] | None, tyro.conf.Positional, tyro.conf.arg(metavar="[export|import]")
    ] = None
    """Instead of showing the page: write rankings down in another form, or read those of another tool."""
    source: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FILE]")] = None
    """What is exported, the directory of a labelling or a file of rows; or the file that is imported."""
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A model that writes answers: a directory or a name on the hub; again for each."""
    prompts: Path | None = None
    """A prompt on each line (.txt), or a table with a column `prompt`, a text or messages (.jsonl)."""
    task: Path | None = None
    """A task file: its template makes the prompts of a table's columns."""
    completions: Path | None = None
    """Instead of models and prompts: rows with `prompt` and `completions`."""
    criterion: str = ""
    """What labellers judge by, as a question or a sentence; it stands at the top of the page."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """The directory of the labelling, runs/rank by default; with export and import, the file to write."""
    form: Form = "pairs"
    """With export and import: our own rows, which train a reward model, or another tool's JSON."""
    n: int = 4
    """Answers to each prompt in all, shared among the models."""
    max_new: int = 128
    """Tokens to write at most."""
    temperature: float = 1.0
    """Below 1 bolder on likely tokens, above 1 more even."""
    top_k: int | None = None
    """Draw among so many of the likeliest tokens only."""
    top_p: float | None = None
    """Draw among the fewest likeliest tokens that hold this probability together."""
    seed: int = 0
    """Of the answers, of the order in which each labeller sees them, and of the prompts that all judge."""
    overlap: float = 1.0
    """The share of the prompts that every labeller judges; the others go to whoever comes first."""
    host: str = "127.0.0.1"
    """The address to listen at; one that other machines reach asks for a key."""
    port: int = 8001
    """0 takes one that is free."""
    key: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A key that opens the page; better kept in the environment, as MODELWRIGHT_KEY."""
    dry_run: bool = False
    """Show what would be drawn and judged, and stop."""
    json: bool = False
    """The address, and what came of it at the end, as a line of JSON each."""


def main(args: list[str]) -> int:
    o = parse(Rank, args, "modelwright rank")
    screen = Screen(quiet=o.json)
    if o.what is not None:
        found = hand_on(o, screen)
    else:
        check(o)
        found = collect(o, screen)
    if o.json:
        print(json.dumps(found, ensure_ascii=False))
    return 0


# -- collecting ----------------------------------------------------------------------------------------------------


def check(o: Rank) -> None:
    """Raises ValueError for settings that do not go together."""
    if o.completions is not None and (o.model or o.prompts or o.task):
        raise ValueError("--completions brings prompts and answers: leave out --model, --prompts and --task")
    if o.completions is None and o.prompts is None:
        raise ValueError("say what to rank: --model A --prompts FILE, or --completions FILE with answers in it")
    if o.completions is None and not o.model:
        raise ValueError("say who answers the prompts: --model A, again for each model; or --completions FILE")
    if not o.criterion.strip():
        raise ValueError('say what labellers judge by: --criterion "Which answer is more helpful?"')
    if not 2 <= o.n <= KEYS or o.n < len(o.model):
        raise ValueError(f"--n is {o.n}, and must be from 2 to {KEYS}, and one or more for each model")
    if not 0 <= o.overlap <= 1:
        raise ValueError(f"--overlap is {o.overlap}, and must be from 0 to 1")
    if not o.temperature > 0:
        raise ValueError(f"--temperature is {o.temperature}, and must be above 0, or all draws are the same")
    if not 0 <= o.port < 1 << 16:
        raise ValueError(f"--port is {o.port}, and must be from 0 to 65535")
    keys_for(o.host, o.key)


def collect(o: Rank, screen: Screen) -> dict[str, Any]:
    """Serve the page until asked to stop; what came of it."""
    directory = o.output or DIRECTORY
    wanted = settings(o)
    resumed = begun(directory, wanted)
    if o.dry_run:
        return plan(o, resumed, screen)
    found = None if resumed else answers(o, screen)
    with listening(o.host, o.port) as listener, open_journal(directory) as journal:
        if found is not None:
            save_items(directory, found, wanted)
        items = load_items(directory)
        for line in journal.torn:
            screen.warn(f"line {line} of {journal.path} was cut short by a kill, before it was answered: passed over")
        labelling = Round(
            o.criterion, items, journal, seed=o.seed, overlap=o.overlap, agreed=lambda judged: asdict(agreed(judged))
        )
        begin: dict[str, Any] = {"url": address_of(listener), "prompts": len(items), "judgements": len(list(journal))}
        print(json.dumps(begin) if o.json else ready(**begin), flush=True)
        run(labelling, Limits(keys_for(o.host, o.key)), listener)
        judged = list(journal)
    screen.say(told(agreed(judged)))
    screen.say(f"kept in {directory}: `modelwright rank export {directory} -o FILE` writes the rankings down")
    return {"directory": str(directory), **counted(judged)}


def ready(url: str, prompts: int, judgements: int) -> str:
    had = f", {judgements} judgements so far" if judgements else ""
    return f"ranking at {url} (Ctrl-C stops it): {prompts} prompts{had}"


def settings(o: Rank) -> dict[str, Any]:
    """What the answers and the judgements depend on."""
    drawn = None if o.completions else {"max_new": o.max_new, "temperature": o.temperature, "top_k": o.top_k,
                                        "top_p": o.top_p}  # fmt: skip
    return {
        "criterion": o.criterion, "prompts": file_digest(o.prompts), "task": file_digest(o.task),
        "completions": file_digest(o.completions), "models": [model_record(name) for name in o.model],
        "n": None if o.completions else o.n, "seed": o.seed, "overlap": o.overlap, "sampling": drawn,
    }  # fmt: skip


def plan(o: Rank, resumed: bool, screen: Screen) -> dict[str, Any]:
    if o.completions is not None:
        prompts, drawn = len(read_answers(o.completions)), 0
    else:
        assert o.prompts is not None
        prompts = len(read_prompts(o.prompts, task_of(o)))
        drawn = 0 if resumed else prompts * o.n
    shared = round(o.overlap * prompts)
    screen.say(f"{prompts} prompts, {shared} of them for every labeller; {drawn} answers to draw")
    return {"prompts": prompts, "shared": shared, "answers": drawn, "resumed": resumed}


def task_of(o: Rank) -> Any:
    return None if o.task is None else read_task(o.task)


# -- answers -------------------------------------------------------------------------------------------------------


def answers(o: Rank, screen: Screen) -> list[Item]:
    """Read, or drawn by the models. Raises ValueError where no prompt has two answers that differ."""
    if o.completions is not None:
        return read_answers(o.completions)
    assert o.prompts is not None
    task = task_of(o)
    asked = read_prompts(o.prompts, task)
    texts = drawn(o, asked, task, screen)
    made = [
        item_of(one.example.id, one.prompt, [text for text, _ in row], [name for _, name in row], columns_of(one, task))
        for one, row in zip(asked, texts, strict=True)
    ]
    items = [item for item in made if len(item.completions) > 1]
    if not items:
        raise ValueError("all answers to each prompt are the same text: raise --temperature or --n, or name two models")
    if alike := len(made) - len(items):
        screen.warn(f"{alike} of {len(made)} prompts are left out: all answers to them are the same text")
    return items


def drawn(o: Rank, asked: Sequence[Asked], task: Any, screen: Screen) -> list[list[tuple[str, str]]]:
    """(text, model) of all answers to each prompt."""
    models = [(name, open_model(name)) for name in o.model]  # all of them, before the first writes for an hour
    found: list[list[tuple[str, str]]] = [[] for _ in asked]
    done = 0
    with screen.bar("answers", len(asked) * o.n, 0) as bar:

        def one_more() -> None:
            nonlocal done
            done += 1
            bar(done, "")

        for at, (name, lm) in enumerate(models):
            counts = [share(prompt, at, o.n, len(models)) for prompt in range(len(asked))]
            stop = () if task is None else task.decoding.stop
            asks = Sampling(o.max_new, o.temperature, o.top_k, o.top_p, stop=stop, seed=o.seed + at)
            for row, texts in zip(found, draw(name, lm, asked, counts, task, asks, one_more), strict=True):
                row += [(text, name) for text in texts]
    for at, name in enumerate(o.model):
        screen.say(f"{name} wrote {sum(who == name for row in found for _, who in row)} answers, seed {o.seed + at}")
    return found


# -- other tools ---------------------------------------------------------------------------------------------------


def hand_on(o: Rank, screen: Screen) -> dict[str, Any]:
    """Rankings from one form to another; what was written."""
    if o.source is None:
        raise ValueError(f"say what to {o.what}: modelwright rank {o.what} SOURCE --form {o.form} -o FILE")
    if o.output is None:
        raise ValueError("say where to write the rankings: -o FILE")
    if o.output.exists():
        raise FileExistsError(f"{o.output} is there already: name another file")
    judged: list[Judgement] = []
    if o.what == "export" and o.source.is_dir():
        judged, torn = load_judgements(o.source)
        found = as_rankings(load_items(o.source), judged, writers=o.form == "pairs")
        for line in torn:
            screen.warn(f"line {line} of the judgements was cut short by a kill, before it was answered: passed over")
        if not found:
            raise ValueError(f"{o.source} holds no ranking yet: nobody has ranked any of its prompts")
    else:
        found = read_rankings(o.source, "pairs" if o.what == "export" else o.form)
    write_whole(o.output, written(found, o.form if o.what == "export" else "pairs"))
    people = {one.labeller for one in found}
    screen.say(f"{len(found)} rankings by {len(people)} labellers written to {o.output}")
    if judged:
        screen.say(told(agreed(judged)))
    if o.what == "export" and o.form == "label-studio":
        screen.say(f"the labelling interface of these tasks: {label_config(found)}")
    return {"rankings": len(found), "labellers": len(people), "output": str(o.output), **counted(judged)}


def counted(judged: Sequence[Judgement]) -> dict[str, Any]:
    if not judged:
        return {}
    ranked = len(rankings(judged))
    return {"ranked": ranked, "skipped": len(judged) - ranked, "agreement": asdict(agreed(judged))}
