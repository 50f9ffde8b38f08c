"""Open a language model, from a directory or from the hub, and save it: the model with its tokenizer and its habits.

`load("runs/one/model")` and `load("gpt2")` are the same to everything above.
"""

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from modelwright.data.tokenizer import Tokenizer
from modelwright.hub.fetch import WANTED, fetch, is_hub_id
from modelwright.model import checkpoint
from modelwright.model.checkpoint import CONFIG, read_json, write_json
from modelwright.model.transformer import Config, Transformer

GENERATION = "generation_config.json"
IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")


@dataclass
class LanguageModel:
    """A model that can read and write text. `generation` holds its ids of special tokens and its way of sampling.

    `aside` names tensors of its files that the model has no part for (BERT's pooler): saved, it is without them.
    """

    model: Transformer
    tokenizer: Tokenizer
    generation: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    aside: tuple[str, ...] = ()


def load(path_or_id: str | Path, *, dtype: torch.dtype | None = None, revision: str | None = None) -> LanguageModel:
    """Open a directory that exists, or else a model of the hub; `revision` is a branch, tag or commit of the hub's.

    The weights are float32 unless another `dtype` is asked for, whatever they are stored as.

    Raises FileNotFoundError where there is neither, and ValueError where the files do not make a model that we know.
    """
    path = _find(path_or_id, revision)
    # The model first: a directory of no known family, or of pickles, is told as that, and not by its tokenizer.
    model = checkpoint.load(path, torch.float32 if dtype is None else dtype)
    tokenizer = Tokenizer.load(path)
    _fit(tokenizer, model, path)
    return LanguageModel(model, tokenizer, _generation(path), path, tuple(checkpoint.aside(path)))


def shape(path_or_id: str | Path, *, revision: str | None = None) -> tuple[Config, str]:
    """What `load` would open, without its weights: its Config, and the name of its family.

    Of a model on the hub only config.json comes. Raises as `load` does.
    """
    return checkpoint.shape(_find(path_or_id, revision, [CONFIG]))


def save(lm: LanguageModel, directory: str | Path, *, overwrite: bool = False) -> None:
    """Write the model, its tokenizer and its generation settings as one directory that transformers opens.

    Raises FileExistsError where `directory` exists, unless it holds a model and `overwrite` is said.
    """
    _fit(lm.tokenizer, lm.model, Path(directory))
    ids = {key: lm.generation[key] for key in IDS if key in lm.generation}
    with checkpoint.whole(directory, overwrite) as work:
        checkpoint.write(lm.model, work, extra=ids)
        lm.tokenizer.save(work)
        if lm.generation:
            write_json(work / GENERATION, lm.generation)


def _find(path_or_id: str | Path, revision: str | None, wanted: Sequence[str] = WANTED) -> Path:
    path, name = Path(path_or_id).expanduser(), reprlib.repr(str(path_or_id))[1:-1]
    try:
        if path.is_dir():
            return path
        if path.exists():
            raise ValueError(f"{path} is a file: name the directory that holds it")
        near = _nearest(path)
    except OSError as error:  # too long, or behind a door that is closed
        raise FileNotFoundError(f"{name} cannot be opened as a directory: {error.strerror}") from error
    if not is_hub_id(str(path_or_id)):
        raise FileNotFoundError(f"there is no directory {path}, and that is no name of a model on the hub either{near}")
    try:
        return fetch(str(path_or_id), revision, wanted)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{near}") from error


def _nearest(path: Path) -> str:
    """The existing directory that is spelled most like the first part of `path` that is missing, as a question."""
    try:
        while not path.parent.is_dir() and path.parent != path:
            path = path.parent
        names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:  # a folder that may not be listed: there is nothing to suggest
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {path.parent / close[0]}?)" if close else ""


def _fit(tokenizer: Tokenizer, model: Transformer, where: Path) -> None:
    """A model may have more rows than there are tokens (they are padded for speed), never fewer."""
    if tokenizer.vocab > model.cfg.vocab:
        raise ValueError(
            f"{where}: the tokenizer has {tokenizer.vocab} ids and the model a vocabulary of {model.cfg.vocab}: "
            "they do not belong together"
        )


def _generation(path: Path) -> dict[str, Any]:
    """The settings for generating: those of generation_config.json, and the ids that only config.json has."""
    config: Mapping[str, Any] = read_json(path / CONFIG)
    said = {key: config.get(key) for key in IDS}
    if (path / GENERATION).exists():
        said |= {key: value for key, value in read_json(path / GENERATION).items() if value is not None}
    return {key: value for key, value in said.items() if value is not None}
