"""A text against a reference text: ROUGE, BLEU, chrF, exact match, F1 of words, and whether given words stand in it.

Every function takes a prediction and a reference and gives the statistics of this one example, float64 (k,), that its
metric sums over a data set. ROUGE, exact match and F1 are means, k = 2: (score, 1). BLEU and chrF are functions of
counts over all examples, which no mean of sentence scores equals.

Letters: k statistics, N longest n-gram.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.helpers import extract_all_char_ngrams

from modelwright.evaluate.sentences import lines

Array = NDArray[np.float64]

ORDER = 4  # BLEU's longest n-gram, of words (Papineni et al. 2002)
CHARS = CHRF.CHAR_ORDER  # chrF's, of characters: 6 (Popović 2015)
LOG_ZERO = -9999999999.0  # what sacrebleu takes for log 0

# The Porter stemmer takes most of ROUGE's time, and each reference is met again by every metric and every model.
WORDS = SimpleNamespace(tokenize=lru_cache(maxsize=8192)(DefaultTokenizer(use_stemmer=True).tokenize))
SCORERS = {kind: RougeScorer([kind], tokenizer=WORDS) for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")}


def mean_of(score: float) -> Array:
    """The statistics of a metric that is a mean over examples."""
    return np.array([score, 1.0])  # (2,)


# -- ROUGE: Lin 2004 ---------------------------------------------------------------------------------------


def rouge(kind: str, prediction: str, reference: str) -> Array:
    """F1 of n-grams (rouge1, rouge2) or of the longest common subsequence (rougeL), in 0..1, with Porter's stemmer.

    The words are runs of a-z and 0-9 in lower case, as in the original script: of a text in another alphabet nothing
    is left.
    """
    return mean_of(SCORERS[kind].score(reference, prediction)[kind].fmeasure)


def rouge_sum(prediction: str, reference: str) -> Array:
    """ROUGE-Lsum (Lin 2004, section 3.2): each sentence of the reference against all sentences of the prediction.

    Sentences are lines. A text of one line is cut at its punctuation instead, or Lsum would be L; rouge-score's own
    `split_summaries` would do that with a trained splitter that must be fetched.
    """
    score = SCORERS["rougeLsum"].score("\n".join(lines(reference)), "\n".join(lines(prediction)))
    return mean_of(score["rougeLsum"].fmeasure)


# -- BLEU: Papineni et al. 2002; Post 2018 for how words are cut and what is signed ---------------------------


def bleu_stats(prediction: str, reference: str) -> Array:
    """(words of the prediction, of the reference, n-grams found for n = 1..4, n-grams written for n = 1..4); words by
    13a."""
    score = BLEU().corpus_score([prediction], [[reference]])
    return np.array([score.sys_len, score.ref_len, *score.counts, *score.totals], np.float64)  # (2 + 2 N,)


def bleu(stats: Array) -> Array:
    """Summed statistics (..., 10) -> BLEU (...) in 0..100: brevity penalty times the geometric mean of precisions.

    An n-gram order without a match counts 1/2, 1/4, ... of a match, each order half of the one before (method 3 of
    Chen and Cherry 2014: sacrebleu's "exp"); without any match, or with an order that the text is too short for, BLEU
    is 0.
    """
    written, wanted = stats[..., 0], stats[..., 1]  # (...)
    found, total = stats[..., 2 : 2 + ORDER], stats[..., 2 + ORDER :]  # (..., N)
    missing = found == 0
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, -1), found)
    logs = np.log(100 * smoothed / np.maximum(total, 1e-300), where=total > 0, out=np.full(total.shape, LOG_ZERO))
    penalty = np.exp(np.minimum(0, 1 - wanted / np.maximum(written, 1e-300)))
    score = penalty * np.exp(logs.sum(-1) / ORDER)
    return np.where(missing.all(-1), 0.0, score)  # (...)


def bleu_extremes(stats: Array) -> tuple[Array, Array]:
    """The worst and the best that one more example could be: as long as the longest, with no n-gram found, or with
    all."""
    length = stats[:, :2].max()
    grams = np.maximum(length - np.arange(ORDER), 0)  # (N,)
    return np.concatenate([[length, length], 0 * grams, grams]), np.concatenate([[length, length], grams, grams])


# -- chrF: Popović 2015 --------------------------------------------------------------------------------------


def chrf_stats(prediction: str, reference: str) -> Array:
    """(n-grams written, wanted, found) for n = 1..6, n-grams of characters without white space."""
    pairs = zip(*(extract_all_char_ngrams(text, CHARS, False) for text in (prediction, reference)), strict=True)
    counts = [
        (h.total() if r else 0, r.total(), (h & r).total()) for h, r in pairs
    ]  # as sacrebleu: none without a reference
    return np.array(counts, np.float64).ravel()  # (3 N,)


def chrf(stats: Array) -> Array:
    """Summed statistics (..., 18) -> chrF2 (...) in 0..100: F with recall twice as important as precision, of the mean
    precision and the mean recall over the orders that both texts are long enough for.
    """
    written, wanted, found = np.moveaxis(stats.reshape(*stats.shape[:-1], CHARS, 3), -1, 0)  # each (..., N)
    long = (written > 0) & (wanted > 0)
    orders = np.maximum(long.sum(-1), 1)
    precision = np.divide(found, written, where=long, out=np.zeros(long.shape)).sum(-1) / orders  # (...)
    recall = np.divide(found, wanted, where=long, out=np.zeros(long.shape)).sum(-1) / orders
    beta = CHRF.BETA**2
    both = beta * precision + recall
    score: Array = 100 * (1 + beta) * np.divide(precision * recall, both, where=both > 0, out=np.zeros(both.shape))
    return score


def chrf_extremes(stats: Array) -> tuple[Array, Array]:
    """As `bleu_extremes`: the longest example with nothing found, and with everything."""
    grams = stats.reshape(-1, CHARS, 3)[:, :, :2].max((0, 2))  # (N,)
    return np.stack([grams, grams, 0 * grams], -1).ravel(), np.stack([grams, grams, grams], -1).ravel()


# -- texts that are to be the same: Rajpurkar et al. 2016 ------------------------------------------------------

PUNCTUATION = str.maketrans("", "", string.punctuation)


def as_said(text: str) -> str:
    """As it stands, in case and punctuation too, but with single spaces and none at the ends."""
    return " ".join(text.split())


def as_answer(text: str) -> str:
    """As SQuAD's script reads it: lower case, no ASCII punctuation, no English articles, single spaces."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> Array:
    """1 where both are the same, else 0."""
    return mean_of(float(prediction == reference))


def token_f1(prediction: str, reference: str) -> Array:
    """F1 of the words of both as bags; where one of them has no words, 1 if both have none (Rajpurkar et al. 2018),
    else 0."""
    written, wanted = prediction.split(), reference.split()
    if not written or not wanted:
        return mean_of(float(written == wanted))
    found = (Counter(written) & Counter(wanted)).total()
    return mean_of(2 * found / (len(written) + len(wanted)))


# -- required words ------------------------------------------------------------------------------------------


def mentions(prediction: str, required: Sequence[str]) -> Array:
    """(how many of the required strings stand in the prediction, how many there are).

    White space and case do not count. A string that begins or ends inside a longer word or number does not stand
    there: "5 days" is not said by "15 days", nor 500 by 1,500.
    """
    text = " ".join(prediction.casefold().split())
    wanted = [" ".join(words.casefold().split()) for words in required]
    return np.array([sum(stands(words, text) for words in wanted), len(wanted)], np.float64)


def stands(words: str, text: str) -> bool:
    if not words:
        return True
    starts = (found.start() for found in re.finditer(f"(?={re.escape(words)})", text))
    return any(not joined(text, at) and not joined(text, at + len(words)) for at in starts)


def joined(text: str, at: int) -> bool:
    """Whether a word or number goes on across this place."""
    if re.search(r"\d[.,]?$", text[max(at - 2, 0) : at]) and re.match(r"[.,]?\d", text[at:]):
        return True
    return 0 < at < len(text) and letter(text[at - 1]) and letter(text[at])


def letter(character: str) -> bool:
    """A digit, or a letter of a script with cases; others (Lo: Chinese, Arabic, Thai) join words without a space."""
    return unicodedata.category(character) in ("Ll", "Lu", "Lt", "Nd")
