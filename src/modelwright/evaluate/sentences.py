"""A text in sentences, by its punctuation alone: no model, no list of abbreviations, so "Dr. Smith" is cut in two."""

import re

# After . ! ? and closing quotes or brackets, before white space and anything but a small letter ("e.g. this" stays whole);
# and after the full stops of Chinese and Japanese, which no space follows.
END = re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’)\]]))\s+(?![a-zß-öø-ÿ])|(?<=[。！？])\s*(?![”’」』])")


def sentences(text: str) -> list[str]:
    """'One. Two?' -> ['One.', 'Two?']; [] for a text of white space alone."""
    return [stripped for piece in END.split(text) if (stripped := piece.strip())]


def lines(text: str) -> list[str]:
    """The lines of a text that has several (a dialogue's turns, a summary with a sentence a line), else its sentences."""
    several = [stripped for line in text.splitlines() if (stripped := line.strip())]
    return several if len(several) > 1 else sentences(text)
