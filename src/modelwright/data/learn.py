"""Vocabularies learnt from a stream of texts: the same texts give the same ids, whatever the run.

Each function returns an untrained shell's `tokenizers.Tokenizer` with a learnt model, `specials` first
among its ids. `room` is how many ids it may use, of the `vocab` that the user asked for.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from modelwright.data import vocabularies

BYTES = 256
ALPHABET = 1000  # BERT's trainers keep so many characters; a word with a rarer one is [UNK]
LONGEST = 100  # characters; WordPiece makes a longer word [UNK]
RUN = 1 << 16  # copies of a word handed to the trainer at a time


def _too_small(vocab: int, least: int, what: str) -> ValueError:
    return ValueError(f"a vocabulary of {vocab} is too small: {what} and the special tokens alone are {least}")


def bpe(texts: Iterator[str], specials: Mapping[str, str], room: int, vocab: int) -> tokenizers.Tokenizer:
    if room < BYTES + len(specials):
        raise _too_small(vocab, vocab - room + BYTES + len(specials), "the 256 bytes")
    inner = tokenizers.Tokenizer(models.BPE())
    # GPT-2's words, but each digit alone: numbers of equal length then have equally many tokens.
    words, digits = pre_tokenizers.ByteLevel(False), pre_tokenizers.Split(Regex("Ġ?[0-9]"), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([words, digits])
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=room, special_tokens=[*specials.values()], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return inner


def wordpiece(texts: Iterator[str], specials: Mapping[str, str], room: int, vocab: int) -> tokenizers.Tokenizer:
    unknown = specials["unk"]
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token=unknown))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    words, alphabet = _words(texts, inner)
    # The library numbers the continuing characters in the order of a hash table that differs from run to
    # run, and breaks ties by number. Given as special tokens they have an order.
    continuing = sorted({f"##{character}" for word in words for character in word[1:]})
    least = len(specials) + len(continuing) + len(alphabet)
    if room < least:
        raise _too_small(vocab, vocab - room + least, f"the {len(alphabet)} characters, first and continuing,")
    trainer = trainers.WordPieceTrainer(
        vocab_size=room,
        special_tokens=[*specials.values(), *continuing],
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    counted = tokenizers.Tokenizer(models.WordPiece(unk_token=unknown))
    counted.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    counted.train_from_iterator(_copies(words), trainer)
    inner.model = models.WordPiece(counted.get_vocab(), unk_token=unknown)
    return inner


def _words(texts: Iterator[str], inner: tokenizers.Tokenizer) -> tuple[Counter[str], set[str]]:
    """How often each word occurs, and the characters; without the words that WordPiece would call unknown."""
    words: Counter[str] = Counter()
    for text in texts:
        normal = inner.normalizer.normalize_str(text)
        words.update(word for word, _ in inner.pre_tokenizer.pre_tokenize_str(normal))
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    ranked = sorted(characters, key=lambda character: (-characters[character], character))
    alphabet = set(ranked[:ALPHABET])
    kept = Counter({w: n for w, n in words.items() if len(w) <= LONGEST and alphabet.issuperset(w)})
    if not kept:
        raise ValueError("there is no text to train a tokenizer on: nothing is left of it after normalisation")
    return kept, {character for word in kept for character in word}


def _copies(words: Counter[str]) -> Iterator[str]:
    for word, count in sorted(words.items()):
        while count > 0:
            yield " ".join([word] * min(count, RUN))
            count -= RUN


def unigram(texts: Iterator[str], specials: Mapping[str, str], room: int, vocab: int) -> tokenizers.Tokenizer:
    pieces = _unigram_pieces(texts, room - len(specials) - BYTES, len(specials) + BYTES + vocab - room, vocab)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(BYTES)]
    unknown = list(specials).index("unk")
    scored = [(piece, 0.0) for piece in (*specials.values(), *bytes_)] + pieces
    inner = tokenizers.Tokenizer(models.Unigram(scored, unknown, byte_fallback=True))
    # A text may hold what the vocabulary uses as its own notation: the mark of a space, the name of a byte.
    # Such a character goes in as its bytes, so that decoding gives every text back.
    inner.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex("<(?=0x[0-9A-F]{2}>)"), "<0x3C>"),
            normalizers.Replace(vocabularies.SPACE, "<0xE2><0x96><0x81>"),
        ]
    )
    inner.pre_tokenizer = _sentence_words(r"<0x[0-9A-F]{2}>")
    inner.decoder = decoders.Sequence(
        [decoders.Replace(vocabularies.SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return inner


def _sentence_words(*alone: str) -> pre_tokenizers.PreTokenizer:
    """Words with the space before them; line breaks and digits alone, and nothing longer than 64
    characters.

    No space is put before the first word, as SentencePiece would: the pieces of a long text could not be
    joined.
    """
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="never"),
            pre_tokenizers.Split(Regex("|".join([*alone, r"\n", r"\p{N}"])), "isolated"),
            pre_tokenizers.Split(Regex(r".{64}"), "isolated"),
        ]
    )


def _unigram_pieces(texts: Iterator[str], room: int, others: int, vocab: int) -> list[tuple[str, float]]:
    """Pieces with their log-probabilities, best first, in an order that does not change from run to run.

    The library sums in the order of a hash table, so scores differ in the last digits; and the characters
    that it must keep although they are improbable get scores 0.0001 apart in that order: here they share
    the lowest.
    """
    alphabet: set[str] = set()
    faults: list[Exception] = []  # of the texts, not of the trainer

    def seen() -> Iterator[str]:
        try:
            for text in texts:
                alphabet.update(text)
                yield text
        except Exception as error:
            faults.append(error)
            raise

    inner = tokenizers.Tokenizer(models.Unigram())
    inner.pre_tokenizer = _sentence_words()
    trainer = trainers.UnigramTrainer(vocab_size=max(room, 0), special_tokens=[], show_progress=False)
    try:
        inner.train_from_iterator(seen(), trainer)
    except Exception as error:  # the library raises nothing narrower
        if faults:
            raise faults[0] from None
        least = others + len(alphabet)
        raise _too_small(vocab, least, f"the {len(alphabet)} characters, the 256 bytes") from error
    found = [(str(piece), float(score)) for piece, score in json.loads(inner.to_str())["model"]["vocab"]]
    lowest = min(score for _, score in found)
    spread = 0.0001 * (len(alphabet) + 1)
    scored = {
        piece: round(lowest if len(piece) == 1 and score <= lowest + spread else score, 4)
        for piece, score in found
        if not re.fullmatch("<0x[0-9A-F]{2}>", piece)
    }
    # Every character stays; the library may hand out more pieces than it was asked for.
    ranked = sorted(scored.items(), key=lambda item: (len(item[0]) > 1, -item[1], item[0]))[:room]
    return sorted(ranked, key=lambda item: (-item[1], item[0]))
