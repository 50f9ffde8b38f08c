"""Is a reply rude? By the grammar of the desk's own replies, of which nothing is learned: it cannot be cheated."""

from modelwright.data.desk.manners import is_rude


def rude(prompt: str, answer: str) -> bool:
    return is_rude(answer)
