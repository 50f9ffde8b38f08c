"""Text to ids and back: load, train and save, on the `tokenizers` library; and decode as a stream.

Letters: V vocabulary.

A text of the user is text: `<|endoftext|>` or `[MASK]` written in it becomes plain pieces, never the
special token, so that nobody can end a document or change a role from within. Special tokens enter only by
their ids.
"""

import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

import tokenizers
from tokenizers import AddedToken, Regex, pre_tokenizers

from modelwright.data import learn, vocabularies

Kind = Literal["bpe", "wordpiece", "unigram"]
Objective = Literal["causal", "masked", "span", "denoise"]

# role -> token, in the order of the ids; what a role is called follows from the objective, whatever the kind
SPECIALS: dict[Objective, dict[str, str]] = {
    "causal": {"eos": "<|endoftext|>", "pad": "<|pad|>", "unk": "<|unk|>"},
    "masked": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "span": {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
    "denoise": {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"},
}
ROLES = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")
# What a role is called where no config says: the first of these that the vocabulary has.
CONVENTIONS = {
    "bos": ("<s>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
    "mask": ("<mask>", "[MASK]"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
}
LARGE = 1 << 14  # characters of a text that takes long: as a batch of one, which lets other threads run meanwhile
KEPT = ("chat_template", "model_max_length")  # of a loaded tokenizer_config.json, handed on when it is saved
FORMATS: tuple[tuple[str, ...], ...] = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
)


class Tokenizer:
    """A thin shell round a `tokenizers.Tokenizer`. Ids run from 0 to `vocab` - 1."""

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        roles: Mapping[str, str | None],
        kept: Mapping[str, Any] | None = None,
    ) -> None:
        """`roles` names the special tokens: {"eos": "</s>", ...}; a token that the vocabulary lacks is no role."""
        inner.no_truncation()  # a text is never cut in silence
        inner.no_padding()
        inner.encode_special_tokens = True
        self.inner = inner
        self.kept = dict(kept or {})
        self.vocab: int = max(inner.get_vocab().values()) + 1  # V
        self.roles = {role: token for role, token in roles.items() if token and inner.token_to_id(token) is not None}
        ids = {role: inner.token_to_id(token) for role, token in self.roles.items()}
        self.bos: int | None = ids.get("bos")
        self.eos: int | None = ids.get("eos")
        self.pad: int | None = ids.get("pad")
        self.unk: int | None = ids.get("unk")
        self.mask: int | None = ids.get("mask")
        self.cls: int | None = ids.get("cls")
        self.sep: int | None = ids.get("sep")
        self.sentinels: tuple[int, ...] = _sentinels(inner)
        self.special = frozenset(i for i, token in inner.get_added_tokens_decoder().items() if token.special)
        self._pieces = _byte_pieces(inner)
        self._bytes = {piece: byte for byte, piece in enumerate(self._pieces)}
        _keep_special_out(inner, self.special)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of a text; with `special`, between the BOS, EOS, CLS or SEP that the model expects round it."""
        if len(text) > LARGE:
            return self.encode_batch([text], special=special)[0]
        return self.inner.encode(text, add_special_tokens=special).ids

    def encode_batch(self, texts: list[str], *, special: bool = False) -> list[list[int]]:
        """`encode` for many texts at once, in parallel."""
        return [found.ids for found in self.inner.encode_batch_fast(texts, add_special_tokens=special)]

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of ids; special tokens only with `special`. Bytes that are no character become U+FFFD."""
        ids = list(ids)
        text = self.inner.decode(ids, skip_special_tokens=not special)
        if self._bytes and "\ufffd" in text:
            shown = [i for i in ids if self.inner.id_to_token(i) is not None and (special or i not in self.special)]
            text = self.inner.decode(self._mended(shown), skip_special_tokens=False)
        return text

    def _mended(self, ids: list[int]) -> list[int]:
        """The same ids with U+FFFD, as bytes, in place of the bytes that are no character.

        Of a row of byte pieces with one wrong byte the library would make U+FFFD throughout, characters
        that are whole included; and a stream, which has shown those already, could not take them back.
        """
        mended, row = [], bytearray()
        for i in [*ids, -1]:
            if i in self._bytes:
                row.append(self._bytes[i])
                continue
            mended += [self._pieces[byte] for byte in row.decode("utf-8", "replace").encode()]
            mended.append(i)
            row.clear()
        return mended[:-1]

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and, if there is one, `chat_template.jinja`, which
        `transformers.AutoTokenizer` opens.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **self.kept,
        }
        # null for a role that nothing plays, or convention would fill it when this is loaded
        config |= {f"{role}_token": self.roles.get(role) for role in ROLES}
        if isinstance(template := self.kept.get("chat_template"), str):  # where newer readers look for it first
            _write(directory / "chat_template.jinja", template)
        _write(directory / "tokenizer.json", self.inner.to_str(pretty=True))
        _write(
            directory / "tokenizer_config.json",
            json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n",
        )

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """From `tokenizer.json`, or else from GPT-2's, BERT's or SentencePiece's vocabulary files.

        Raises FileNotFoundError where there is none of them, ValueError for one that cannot be read.
        """
        directory = Path(directory)
        config = _config(directory / "tokenizer_config.json")
        for names in FORMATS:
            if all((directory / name).is_file() for name in names):
                inner = _opened([directory / name for name in names], config)
                added = directory / "added_tokens.json"
                if names != FORMATS[0] and added.is_file():  # a tokenizer.json holds them itself
                    vocabularies.add(inner, added, _special(directory, config))
                return cls(inner, _roles(inner, directory, config), _kept(directory, config))
        looked_for = ", ".join(" with ".join(names) for names in FORMATS)
        raise FileNotFoundError(f"no tokenizer in {directory}: looked for {looked_for}")


def _kept(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What is handed on; a chat template in a file of its own is the newer one, and goes back into the config."""
    kept = {key: config[key] for key in KEPT if key in config}
    template = directory / "chat_template.jinja"
    return kept | {"chat_template": template.read_text("utf-8")} if template.is_file() else kept


def _special(directory: Path, config: Mapping[str, Any]) -> set[str]:
    """The tokens that the tokenizer's configs call special."""
    said = {**_config(directory / "special_tokens_map.json"), **config}
    named = [said.get(f"{role}_token") for role in ROLES]
    listed = said.get("additional_special_tokens")
    tokens = [*named, *(listed if isinstance(listed, list) else [])]
    contents = [token.get("content") if isinstance(token, dict) else token for token in tokens]
    return {content for content in contents if isinstance(content, str)}


def _opened(files: list[Path], config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    name = files[0].name
    if name in ("vocab.json", "encoder.json"):
        return vocabularies.byte_pairs(files[0], files[1], config)
    if name == "vocab.txt":
        return vocabularies.word_pieces(files[0], config)
    if name.endswith(".model"):
        return vocabularies.sentence_pieces(files[0], config)
    try:
        return tokenizers.Tokenizer.from_file(str(files[0]))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{files[0]} is not a tokenizer that can be read: {error}") from error


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return found


def _roles(inner: tokenizers.Tokenizer, directory: Path, config: Mapping[str, Any]) -> dict[str, str | None]:
    """Which token is BOS, EOS and so on: by name in the tokenizer's configs, by id in the model's, by
    convention.
    """
    named = [config, _config(directory / "special_tokens_map.json")]
    model = _config(directory / "config.json")
    return {role: _role(role, named, model, inner) for role in ROLES}


def _role(
    role: str, named: list[dict[str, Any]] | list[Any], model: Mapping[str, Any], inner: tokenizers.Tokenizer
) -> str | None:
    for config in named:
        if f"{role}_token" in config:  # null is an answer too: the model has none
            token = config[f"{role}_token"]
            content = token.get("content") if isinstance(token, dict) else token
            return content if isinstance(content, str) else None
    number = model.get(f"{role}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    if isinstance(number, int) and (token := inner.id_to_token(number)):
        return token
    return next((token for token in CONVENTIONS[role] if inner.token_to_id(token) is not None), None)


def _sentinels(inner: tokenizers.Tokenizer) -> tuple[int, ...]:
    found: list[int] = []
    while (number := inner.token_to_id(f"<extra_id_{len(found)}>")) is not None:
        found.append(number)
    return tuple(found)


def _byte_pieces(inner: tokenizers.Tokenizer) -> list[int]:
    """The ids of <0x00> to <0xFF> in a vocabulary that falls back on them; else nothing."""
    ids = [inner.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    found = [i for i in ids if i is not None]
    return found if len(found) == 256 and inner.decode(found[65:66]) == "A" else []


def _keep_special_out(inner: tokenizers.Tokenizer, special: Iterable[int]) -> None:
    """Cut special tokens that a text spells out after their first character, so that the model cannot find
    them.

    `encode_special_tokens` stops the search for added tokens, but a Unigram model has `</s>` among its own
    pieces, with the best of all scores. Where spelling a token out yields its id, one more pre-tokenizer is
    put at the end.
    """
    tokens = [inner.id_to_token(i) or "" for i in sorted(special)]
    found = [token for token in tokens if len(token) > 1 and _is_found(inner, token)]
    if not found:
        return
    spelled = "|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in found)
    cut = pre_tokenizers.Split(Regex(spelled), "merged_with_previous")
    before = inner.pre_tokenizer
    inner.pre_tokenizer = pre_tokenizers.Sequence([before, cut]) if before else cut


def _is_found(inner: tokenizers.Tokenizer, token: str) -> bool:
    """Whether text that spells the token is given its id, for all of it: [UNK] for a part is an honest
    answer.
    """
    number = inner.token_to_id(token)
    for text in (token, f"a{token}a", f"a {token} a"):
        encoding = inner.encode(text, add_special_tokens=False)
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if i == number and end - start >= len(token):
                return True
    return False


def _write(path: Path, content: str) -> None:
    """All of it or nothing: into a file beside it, to the disk, then renamed."""
    beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with beside.open("x", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


# --- decoding as a stream ---


class Decoder:
    """Ids come one by one, text as soon as it is certain: half a character is never shown.

    What `push` and `finish` return, joined, is `tokenizer.decode` of all the ids. Each push decodes the
    last few ids only: what a token looks like depends on the bytes before it (a character has at most 4, a
    token at least 1) and on whether it is the first. Text ends in U+FFFD exactly when its last bytes may be
    the start of a character: that one is held back until the next token decides.
    """

    KEEP, MOST = 4, 12  # ids: how many stay when the window is cut, and at what length it is

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        self.tokenizer, self.special = tokenizer, special
        self._window: list[int] = []
        self._shown = 0  # characters of the window's text that have been returned

    def push(self, token: int) -> str:
        """The text that has become certain with this id; often a word, sometimes nothing."""
        hidden = token in self.tokenizer.special and not self.special
        if hidden or self.tokenizer.inner.id_to_token(token) is None:
            return ""
        self._window.append(token)
        text = self._certain()
        new, self._shown = text[self._shown :], max(self._shown, len(text))
        if len(self._window) > self.MOST:
            del self._window[: -self.KEEP]
            self._shown = len(self._certain())
        return new

    def finish(self) -> str:
        """What was held back: the start of a character that never became whole, as U+FFFD."""
        rest = self._text()[self._shown :]
        self._window, self._shown = [], 0
        return rest

    def fork(self) -> Self:
        """Another that has been given the same ids, and goes on by itself."""
        other = type(self)(self.tokenizer, special=self.special)
        other._window, other._shown = [*self._window], self._shown
        return other

    def _text(self) -> str:
        return self.tokenizer.decode(self._window, special=self.special)

    def _certain(self) -> str:
        return self._text().removesuffix("\ufffd")


# --- training ---


def train(texts: Iterable[str], kind: Kind, vocab: int, *, objective: Objective = "causal") -> Tokenizer:
    """Learn a vocabulary of at most `vocab` ids from texts that are read once; the same texts give the same
    ids.

    bpe: byte-level (Sennrich et al. 2016, Radford et al. 2019), no unknown token. wordpiece: BERT's,
    lower-cased (Wu et al. 2016). unigram: SentencePiece's (Kudo 2018) with a byte for each unknown
    character. The special tokens follow from the objective; for `span`, T5's 100 sentinels are the last
    ids.

    Raises ValueError where there is no text, or where `vocab` cannot hold the alphabet and the special
    tokens.
    """
    makers = {"bpe": learn.bpe, "wordpiece": learn.wordpiece, "unigram": learn.unigram}
    if kind not in makers or objective not in SPECIALS:
        raise ValueError(f"kind {kind!r} or objective {objective!r} is none of {[*makers]}, {[*SPECIALS]}")
    roles = dict(SPECIALS[objective])
    if kind == "bpe":
        roles.pop("unk", None)  # every byte is known
    sentinels = vocabularies.SENTINELS if objective == "span" else 0
    inner = makers[kind](_some(texts), roles, vocab - sentinels, vocab)
    # what a <mask> stands for begins with the space before it, so the mask that a prompt spells takes that in
    spaced = roles["mask"] if objective == "denoise" else ""
    inner.add_special_tokens(
        [AddedToken(token, special=True, normalized=False, lstrip=token == spaced) for token in roles.values()]
    )
    vocabularies.add_sentinels(inner, sentinels)
    if objective == "causal":
        roles["bos"] = roles["eos"]
    inner.post_processor = {
        "causal": lambda: vocabularies.around(inner, roles["bos"], None),
        "masked": lambda: vocabularies.around(inner, roles["cls"], roles["sep"]),
        "span": lambda: vocabularies.around(inner, None, roles["eos"]),
        "denoise": lambda: vocabularies.around(inner, roles["bos"], roles["eos"]),
    }[objective]()
    return Tokenizer(inner, roles)


def _some(texts: Iterable[str]) -> Iterator[str]:
    texts = iter(texts)
    first = next((text for text in texts if text.strip()), None)
    if first is None:
        raise ValueError("there is no text to train a tokenizer on: every document is empty or blank")
    return chain([first], texts)
