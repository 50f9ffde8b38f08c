"""`modelwright generate MODEL "prompt"`: continue prompts, or fill the masks of a text.

    1. open the model; 2. read the prompts; 3. an encoder fills masks, any other model writes on;
    4. one continuation of one prompt is shown as it is written, more of them one after the other as they are done.

Left out: chat templates, serving many users at once.
"""

import json
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from modelwright.adapt.lora import merged_copy
from modelwright.adapt.open import method, open_model
from modelwright.infer.beam import ROWS
from modelwright.infer.complete import Completion, pieces
from modelwright.infer.constrain import Constraint, json_grammar
from modelwright.infer.engine import TEXTS, room
from modelwright.infer.fill import fill_mask
from modelwright.infer.packed import prepare
from modelwright.infer.sample import Sampling, settings
from modelwright.infer.text import LanguageModel, encode_prompts, eos_ids
from modelwright.plan.cost import parameters
from modelwright.plan.memory import inference
from modelwright.recipes.flags import parse

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
FILLS = ("model", "prompt", "prompts", "top", "precision", "json", "stream")  # flags that an encoder has a use for
SHOWN = 60  # characters of a prompt in a heading


@dataclass(frozen=True)
class Options:
    """Continue a prompt; with an encoder, fill each mask of a text ("the [MASK] of France").

    What is not said is as the model's generation_config.json says. A model that does not ask there to be sampled
    (do_sample) is read greedily: the likeliest token each time. Whoever asks for a temperature, top-k, top-p, min-p, a
    seed or several samples asks for sampling.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model's or an adapter's directory, or a model's name on the hub."""
    prompt: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")] = None
    """The text to continue; - reads it from standard input."""
    prompts: Path | None = None
    """A file with a prompt on each line, instead: they are continued together."""
    max_new: int | None = None
    """Tokens to write at most, 128 unless the model says otherwise."""
    temperature: float | None = None
    """Below 1 bolder on likely tokens, above 1 more even; 0 is greedy."""
    top_k: int | None = None
    """Draw among so many of the likeliest tokens only."""
    top_p: float | None = None
    """Draw among the fewest likeliest tokens that hold this probability together."""
    min_p: float | None = None
    """Draw among tokens at least so many times as likely as the likeliest."""
    repetition_penalty: float | None = None
    """Above 1 makes tokens that already stand in the prompt or the continuation less likely."""
    stop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """End before this text; may be said several times."""
    schema: Path | None = None
    """A file with a JSON schema: what is written is JSON that is valid by it."""
    n: int = 1
    """Samples of each prompt; with beams, the best so many texts."""
    beams: int | None = None
    """Look for the likeliest whole text along so many continuations at once, not for the likeliest token each time."""
    length_penalty: float | None = None
    """Of beams: 0 favours short texts; the larger, the longer; 1 unless the model says otherwise."""
    seed: int | None = None
    """The same seed draws the same samples again."""
    greedy: bool = False
    """The likeliest token each time, whatever the model says."""
    top: int = 5
    """Candidates to show for each mask, with an encoder."""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """Of weights and computation; int8: the products' weights and inputs rounded to eight bits."""
    dry_run: bool = False
    """Show the model, the prompts' tokens, the settings and the memory, and stop."""
    json: bool = False
    """One JSON object a line: prompt, sample, text, tokens, finish, seed."""
    stream: bool = True
    """A continuation is shown as it is written; `--no-stream`, and for more than one, when it is done."""


def main(args: list[str]) -> int:
    o = parse(Options, args, "modelwright generate")
    prompts = read_prompts(o)
    lm = open_model(o.model, dtype=DTYPES[o.precision])
    if method(lm) == "lora":
        lm = replace(lm, model=merged_copy(lm.model))  # plain layers can be packed, and write faster
    if lm.model.cfg.shape == "encoder":
        said = [field.name for field in fields(o) if vars(o)[field.name] != field.default]
        if lone := [name for name in said if name not in FILLS]:
            flag = "--" + lone[0].replace("_", "-")
            raise ValueError(f"{flag} is for models that write on: an encoder only fills the masks of a text")
        for prompt in prompts:
            show_masks(lm, prompt, o)
        return 0
    if o.precision == "int8":
        lm = replace(lm, model=prepare(lm.model, int8=True))
    asked, made = sampling(lm, o), list[Constraint]()
    grammar = None if o.schema is None else keeping_to(lm, o.schema, made)
    if o.dry_run:
        show_plan(lm, prompts, asked, o.json)
        return 0
    if len(prompts) * asked.n == 1 and o.stream and not o.json:
        done = show_stream(lm, prompts[0], asked, grammar)
        return warn([done], made)
    found = []
    for row, done in in_order(lm, prompts, asked, grammar):
        show(prompts[row // asked.n], row, done, asked, o.json)
        found.append(done)
    return warn(found, made)


def read_prompts(o: Options) -> list[str]:
    """Raises ValueError where there is no prompt, two ways to one, or one that is not UTF-8."""
    if (o.prompt is None) == (o.prompts is None):
        raise ValueError('say either a prompt ("Once upon a time", or - for standard input) or --prompts FILE')
    if o.prompts is None:
        return [unbroken(standard_input() if o.prompt == "-" else str(o.prompt))]
    try:
        lines = o.prompts.read_text(encoding="utf-8").split("\n")  # and at no other of Unicode's ends of line
    except UnicodeDecodeError as error:
        raise ValueError(f"{o.prompts} is not UTF-8 at byte {error.start}") from error
    if not (found := [line for line in lines if line.strip()]):
        raise ValueError(f"{o.prompts} holds no prompt: put one on each line")
    return found


def standard_input() -> str:
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"the prompt on standard input is not UTF-8 at byte {error.start}") from error


def unbroken(prompt: str) -> str:
    """The prompt, if it is text: a byte of the command line that is not UTF-8 reaches Python as half a character."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the prompt is not UTF-8 at character {error.start}: write it in UTF-8") from error
    return prompt


def sampling(lm: LanguageModel, o: Options) -> Sampling:
    """The flags that were given over the model's own settings; the seed is drawn here, so that it can be told."""
    draws = [name for name in ("temperature", "top_k", "top_p", "min_p", "seed") if getattr(o, name) is not None]
    if o.greedy and (unfit := draws + ["n"] * (o.n != 1) + ["beams"] * (o.beams is not None)):
        flags = ", ".join("--" + name.replace("_", "-") for name in unfit)
        raise ValueError(f"--greedy draws nothing: leave out either it or {flags}")
    said: dict[str, Any] = {
        name: getattr(o, name)
        for name in ("max_new", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "n", "seed",
                     "beams", "length_penalty")
    }  # fmt: skip
    if o.beams not in (None, 1) and o.schema is not None:
        raise ValueError("--beams cannot be held to a JSON schema: leave out either --beams or --schema")
    asked = settings(lm.generation, **(said | {"temperature": 0.0} if o.greedy else said))
    return replace(asked, seed=secrets.randbits(31)) if asked.seed is None else asked


def keeping_to(lm: LanguageModel, path: Path, made: list[Constraint]) -> Callable[[], Constraint]:
    """What makes each row's grammar and puts it into `made`. A schema that cannot be followed is refused here."""
    try:
        schema = json.loads(path.read_bytes())
        first = json_grammar(lm.tokenizer, schema, eos_ids(lm))
    except ValueError as error:  # of bytes that are not JSON, too
        raise ValueError(f"{path}: {error}") from error

    def one() -> Constraint:
        made.append(first.fresh())
        return made[-1]

    return one


def show_stream(
    lm: LanguageModel, prompt: str, asked: Sampling, grammar: Callable[[], Constraint] | None
) -> Completion:
    done = None
    for piece in pieces(lm, [prompt], asked, grammar):
        print(piece.text, end="", flush=True)
        done = piece.completion
    print()
    assert done is not None, "the last piece brings the completion"
    return done


def in_order(
    lm: LanguageModel, prompts: list[str], asked: Sampling, grammar: Callable[[], Constraint] | None
) -> Iterator[tuple[int, Completion]]:
    """Each row's completion as soon as those before it are out."""
    ready: dict[int, Completion] = {}
    turn = 0
    for piece in pieces(lm, prompts, asked, grammar):
        if piece.completion is not None:
            ready[piece.row] = piece.completion
        while turn in ready:
            yield turn, ready.pop(turn)
            turn += 1


def show(prompt: str, row: int, done: Completion, asked: Sampling, as_json: bool) -> None:
    sample = row % asked.n
    if as_json:
        seed = None if asked.greedy else asked.seed
        said = {"prompt": prompt, "sample": sample, "text": done.text, "tokens": done.tokens, "finish": done.finish}
        print(json.dumps({**said, "seed": seed}, ensure_ascii=False), flush=True)
        return
    start = prompt if len(prompt) <= SHOWN else prompt[: SHOWN - 1] + "…"
    of = f", sample {sample + 1} of {asked.n}" if asked.n > 1 else ""
    print(f"--- {row // asked.n + 1}{of}: {start}\n{done.text}", flush=True)


def show_masks(lm: LanguageModel, text: str, o: Options) -> None:
    found = fill_mask(lm, text, o.top)
    if o.json:
        print(json.dumps({"prompt": text, "masks": [[vars(c) for c in mask] for mask in found]}, ensure_ascii=False))
        return
    for number, candidates in enumerate(found, 1):
        print(f"mask {number} of {len(found)}: {text}")
        for c in candidates:
            print(f"  {c.probability:7.2%}  {c.text}")


def show_plan(lm: LanguageModel, prompts: list[str], asked: Sampling, as_json: bool) -> None:
    """What would be run. The memory is that of the weights and of the cache of the rows decoded together."""
    cfg, encoded = lm.model.cfg, encode_prompts(lm, prompts)
    begun, source = (max(map(len, rows or [[]])) for rows in (encoded.prompts, encoded.sources))
    length, number = begun + room(cfg, begun, asked.max_new), lm.model.embed.tokens.weight.itemsize
    rows = min(len(prompts) * max(asked.n, asked.beams), TEXTS if asked.beams == 1 else max(ROWS, asked.beams))
    unused = ("seed",) * asked.greedy + ("beams", "length_penalty") * (asked.beams == 1)
    told: dict[str, Any] = {
        "model": f"{cfg.shape}, {parameters(cfg):,} parameters: width {cfg.width}, {cfg.layers} layers",
        "prompt_tokens": [len(row) for row in encoded.sources or encoded.prompts],
        "settings": {name: value for name, value in vars(asked).items() if name not in unused},
        "bytes": inference(cfg, rows, length, source, number=number).total,
    }
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
        return
    said = ", ".join(f"{name} {value}" for name, value in told["settings"].items() if value not in (None, ()))
    print(f"model: {told['model']}\nprompt: {', '.join(map(str, told['prompt_tokens']))} tokens\nsettings: {said}")
    print(f"memory: {told['bytes'] / 2**20:,.1f} MiB beside the program's own")


def warn(found: list[Completion], made: list[Constraint]) -> int:
    """Say on standard error what was cut by the model rather than by the user, and what is no whole JSON."""
    if fault := next((constraint.fault for constraint in made if constraint.fault), None):
        raise ValueError(f"not every continuation is whole JSON, where the schema could not be followed on: {fault}")
    if made and (cut := sum(done.finish == "length" for done in found)):
        what = "the continuation" if len(found) == 1 else f"{cut} of {len(found)} continuations"
        print(f"modelwright: {what} ended before the JSON was whole: raise --max-new", file=sys.stderr)
    if cut := sum(done.finish == "context" for done in found):
        what = "the continuation" if len(found) == 1 else f"{cut} of {len(found)} continuations"
        print(f"modelwright: {what} ended where the model's context was full", file=sys.stderr)
    return 0
