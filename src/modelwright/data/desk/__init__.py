"""The embedded world: a support desk, whose every dialogue has known facts, any number of them, from a seed.

    from modelwright.data.desk import cases
    for case in cases(seed=0, part="train", count=3):
        print(case.text, case.summary, sep="\\n\\n")

`words`, `customer` and `agent` are tables: the things the desk talks about, and what either side says.
`facts` draws what a dialogue is about, `script` who says what and when, `summary` the same in a few
sentences of English and French, and `cases` puts them together.

Case `i` of a part depends on `(seed, part, i)` alone, so any slice is made without what precedes it. What a
dialogue is about, its (product, problem, resolution), is always said, and a hash of those three, whatever
the seed, decides the one part that may show it: no dialogue of one part can stand in another, and valid and
test hold combinations that training never shows.
"""

from modelwright.data.desk.cases import SHAPES, Case, Question, Span, Turn, cases, documents
from modelwright.data.desk.facts import ENTITIES, FACTS, OPTIONAL, PARTS, Part, combinations, part_of

__all__ = [
    "ENTITIES",
    "FACTS",
    "OPTIONAL",
    "PARTS",
    "SHAPES",
    "Case",
    "Part",
    "Question",
    "Span",
    "Turn",
    "cases",
    "combinations",
    "documents",
    "part_of",
]
