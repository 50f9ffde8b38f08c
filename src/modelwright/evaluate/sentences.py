"""A text in sentences, by its punctuation alone: no model, no list of abbreviations, so "Dr. Smith" is cut in two."""

import re

# After . ! ? and closing quotes or brackets, before white space; and after the full stops of Chinese and Japanese,
# which no space follows.
END = r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’)\]]))\s+|(?<=[。！？])\s*(?![”’」』])"
ANYWHERE = re.compile(END)
BEFORE_CAPITALS = re.compile(rf"(?:{END})(?![a-zß-öø-ÿ])")  # "e.g. this" stays whole


def sentences(text: str) -> list[str]:
    """'One. Two?' -> ['One.', 'Two?']; [] for a text of white space alone.

    A small letter begins no sentence, unless the text is written in small letters throughout.
    """
    end = ANYWHERE if text.islower() else BEFORE_CAPITALS
    return [stripped for piece in end.split(text) if (stripped := piece.strip())]


def lines(text: str) -> list[str]:
    """The lines of a text that has several (a dialogue's turns, a summary with a sentence a line), else its
    sentences."""
    several = [stripped for line in text.splitlines() if (stripped := line.strip())]
    return several if len(several) > 1 else sentences(text)
