"""The vocabulary files that models came with before `tokenizer.json`, each made into a
`tokenizers.Tokenizer`.

GPT-2's vocabulary and merges (Radford et al. 2019), BERT's word pieces (Devlin et al. 2018) and
SentencePiece's model (Kudo and Richardson 2018), which T5 and the first Llamas use.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

try:
    from sentencepiece import sentencepiece_model_pb2 as sentencepiece
except ImportError:  # an extra: only those files need it
    sentencepiece = None  # type: ignore[assignment]

SPACE = "\u2581"  # SentencePiece writes a space so
NORMAL, UNKNOWN, CONTROL, WRITTEN = 1, 2, 3, 4  # SentencePiece's kinds of piece; WRITTEN matches as it stands
UNIGRAM, BPE = 1, 2  # and its kinds of model
SENTINELS = 100  # T5 added so many to its vocabulary
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # all of them beside GPT-2's pieces: RoBERTa's, and BART's


def byte_pairs(vocabulary: Path, merges: Path, config: Mapping[str, Any]) -> Tokenizer:
    """GPT-2's: `vocab.json` and `merges.txt`, or `encoder.json` and `vocab.bpe`; RoBERTa's too, which frames a text."""
    ids = _json(vocabulary)
    try:
        lines = _lines(merges)
        rows = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        pairs = [(left, right) for left, right in rows]
        tokenizer = Tokenizer(models.BPE(ids, pairs))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{merges} does not hold the merges of {vocabulary.name}: {error}") from error
    spaced = bool(config.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    tokenizer.decoder = decoders.ByteLevel()
    framed = ids.keys() >= set(ROBERTA)
    named = [token for token in ids if token.startswith("<|") and token.endswith("|>")]
    _add_special(tokenizer, [*named, *(ROBERTA if framed else ())])
    if framed:
        cls, sep = (("<s>", ids["<s>"]), ("</s>", ids["</s>"]))
        tokenizer.post_processor = processors.RobertaProcessing(sep, cls, add_prefix_space=spaced)
    return tokenizer


def word_pieces(vocabulary: Path, config: Mapping[str, Any]) -> Tokenizer:
    """BERT's `vocab.txt`, a piece a line. Lower-cases unless `do_lower_case` in the config says otherwise."""
    try:
        pieces = _lines(vocabulary)
    except UnicodeDecodeError as error:
        raise ValueError(f"{vocabulary} is not UTF-8: byte {error.start} belongs to no character") from error
    ids = {piece: number for number, piece in enumerate(pieces)}
    if "[UNK]" not in ids:
        raise ValueError(f"{vocabulary} is not a vocabulary of word pieces: it has no [UNK]")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=bool(config.get("do_lower_case", True)),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    _add_special(tokenizer, [piece for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if piece in ids])
    if "[CLS]" in ids and "[SEP]" in ids:
        tokenizer.post_processor = around(tokenizer, "[CLS]", "[SEP]")
    return tokenizer


def around(tokenizer: Tokenizer, first: str | None, last: str | None) -> processors.TemplateProcessing:
    """The post-processor that puts `first` before a text and `last` after it: `[CLS] $A [SEP]`."""
    single = " ".join(part for part in (first, "$A", last) if part)
    pair = " ".join(part for part in (single, "$B:1", f"{last}:1" if last else None) if part)
    special = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((first, last)) if token]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


# --- SentencePiece ---


def sentence_pieces(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    """T5's `spiece.model` (Unigram), Llama's `tokenizer.model` (BPE).

    T5's file lacks the sentinels that its model has: they are put at the end, <extra_id_0> last.
    """
    proto = _proto(path)
    kind = proto.trainer_spec.model_type
    if kind not in (UNIGRAM, BPE):
        raise ValueError(f"{path} is a SentencePiece model of words or characters: only Unigram and BPE are known")
    tokenizer = Tokenizer(_unigram(proto) if kind == UNIGRAM else _bpe(proto))
    _write_spaces(tokenizer, proto)
    pieces = [(piece.piece, piece.type) for piece in proto.pieces]
    _add_special(tokenizer, [piece for piece, kind in pieces if kind in (UNKNOWN, CONTROL)])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece, kind in pieces if kind == WRITTEN])
    begins, ends = _begin_and_end(proto, config)
    if not begins and not any(piece.startswith("<extra_id_") for piece, _ in pieces):
        add_sentinels(tokenizer, int(config.get("extra_ids", SENTINELS)))
    if begins or ends:
        tokenizer.post_processor = around(tokenizer, begins, ends)
    return tokenizer


def add_sentinels(tokenizer: Tokenizer, count: int = SENTINELS) -> None:
    """<extra_id_0>, <extra_id_1>, ... at the end of the vocabulary, numbered downwards: <extra_id_0> is the
    last id.
    """
    _add_special(tokenizer, [f"<extra_id_{i}>" for i in reversed(range(count))])


def _proto(path: Path) -> Any:
    if sentencepiece is None:
        raise ValueError(f"{path} needs the sentencepiece package: pip install modelwright[sentencepiece]")
    proto = sentencepiece.ModelProto()  # type: ignore[attr-defined]
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own DecodeError, which has two implementations
        raise ValueError(f"{path} is not a SentencePiece model") from error
    if not proto.pieces:
        raise ValueError(f"{path} is not a SentencePiece model: it has no pieces")
    return proto


def _unigram(proto: Any) -> models.Unigram:
    spec = proto.trainer_spec
    return models.Unigram([(p.piece, p.score) for p in proto.pieces], spec.unk_id, spec.byte_fallback)


def _bpe(proto: Any) -> models.BPE:
    """SentencePiece's BPE keeps no merges: any two pieces that join to a third are one, the best third
    first.
    """
    ids = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    normal = [(piece.score, piece.piece) for piece in proto.pieces if piece.type == NORMAL]
    merges = [pair for _, piece in sorted(normal, key=lambda item: -item[0]) for pair in _halves(piece, ids)]
    spec = proto.trainer_spec
    unknown = proto.pieces[spec.unk_id].piece
    return models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=spec.byte_fallback)


def _halves(piece: str, ids: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
    known = [pair for pair in pairs if pair[0] in ids and pair[1] in ids]
    yield from sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))


def _write_spaces(tokenizer: Tokenizer, proto: Any) -> None:
    """The way from text to SentencePiece's spaces and back."""
    spec = proto.normalizer_spec
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    if not any(SPACE in piece.piece[1:] for piece in proto.pieces):  # then no piece can reach over two words
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    strip = [decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )


def _begin_and_end(proto: Any, config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """What stands round a text: <s> before it where the vocabulary has that (Llama), else </s> after it
    (T5).
    """
    pieces, spec = {piece.piece for piece in proto.pieces}, proto.trainer_spec
    has_bos = spec.bos_id >= 0 and spec.bos_piece in pieces
    begins = config.get("add_bos_token", has_bos) and has_bos
    ends = config.get("add_eos_token", not has_bos) and spec.eos_piece in pieces
    return spec.bos_piece if begins else None, spec.eos_piece if ends else None


def _add_special(tokenizer: Tokenizer, tokens: list[str]) -> None:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])


def _lines(path: Path) -> list[str]:
    """The lines of a file, split at "\\n" alone: a vocabulary may hold the other characters that Unicode breaks at."""
    lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


def add(tokenizer: Tokenizer, path: Path, special: Collection[str]) -> None:
    """The tokens of an `added_tokens.json`, which models got after their vocabulary was made; `special` are special.

    Raises ValueError where a token would not get the id that the file gives it: the model knows it by that.
    """
    there = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token, number in sorted(_json(path).items(), key=lambda item: item[1]):
        if token not in there:  # else it would cease to be special
            tokenizer.add_tokens([AddedToken(token, special=token in special, normalized=False)])
        if (got := tokenizer.token_to_id(token)) != number:
            raise ValueError(f"{path} gives {token!r} the id {number}, but after the vocabulary it has the id {got}")


def _json(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not hold a vocabulary, token to id")
    if wrong := next((token for token, number in found.items() if type(number) is not int), None):
        raise ValueError(f"{path} does not hold a vocabulary, token to id: {wrong!r} has {found[wrong]!r}")
    return found
