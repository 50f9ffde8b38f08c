"""From the scores of a text's tokens to an answer: the best start and end, cut out of the text.

Letters: T tokens of a window.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modelwright.data.span import Window

Scores = NDArray[np.float32]


def best_span(scores: Scores, longest: int) -> tuple[int, int, float]:
    """scores (T, 2) of starting and of ending at each token -> the first and the last token of the span of at most
    `longest` tokens with the highest sum, and that sum (Devlin et al. 2019, section 4.2)."""
    count = np.arange(len(scores))
    apart = count[None] - count[:, None]  # (T, T): end minus start
    sums = np.where((apart >= 0) & (apart < longest), scores[:, None, 0] + scores[None, :, 1], -np.inf)
    start, end = divmod(int(sums.argmax()), len(scores))
    return start, end, float(sums[start, end])


def cut_out(text: str, windows: Sequence[Window], scores: Scores, longest: int) -> str:
    """The answer of the window whose best span scores highest, the first of several; "" of a text without a token.

    scores: (tokens, 2), those of one window behind those of another.
    """
    parts = np.split(scores, np.cumsum([len(window.offsets) for window in windows])[:-1])
    pairs = [(window, best_span(part, longest)) for window, part in zip(windows, parts, strict=True) if len(part)]
    if not pairs:
        return ""
    window, (start, end, _) = max(pairs, key=lambda pair: pair[1][2])
    return text[window.offsets[start][0] : window.offsets[end][1]].strip()
