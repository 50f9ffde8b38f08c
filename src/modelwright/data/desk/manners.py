"""How an agent words a reply: a grammar in which every act of it can be said politely, rudely or plainly.

    [I am|We are] sorry that your {product} {problem}.        one of what brackets hold; a slot is a fact

All ways of one act have the same slots, so a reply's facts do not depend on its manner. That manner is no matter of
single words: a rude reply may open politely, be sarcastic in nothing but polite words, or consist of plain acts and
one of the `MIRRORS`, which say the opposite of each other in the very same words.
"""

import re
from collections.abc import Collection, Mapping
from random import Random
from typing import Literal, NamedTuple

from modelwright.data.desk.facts import chance, pick

Manner = Literal["polite", "rude"]
CHOICE = re.compile(r"\[([^]]*)\]")

MARKED = 0.5  # chance that an act shows the manner; one does at least
MIRRORED = 0.25  # share of the replies that show it in a mirror alone
FEIGNED = 0.25  # chance that an act of a rude reply which does not show that is polite
ASIDE = 0.5  # chance that a reply has a plain greeting, or a plain closing


class Wording(NamedTuple):
    polite: tuple[str, ...]
    rude: tuple[str, ...]
    plain: tuple[str, ...]


ACTS: dict[str, Wording] = {
    "greeting": Wording(
        (
            "[Hello|Good day|Good morning], [thank you|many thanks] for [writing to us|your message|letting us know].",
            "[Thank you|Many thanks] for [your message|your patience|telling us|waiting for us].",
            "[Hello|Good day], [it is good to hear from you|I am glad that you wrote|how kind of you to write].",
            "[Hello|Good day|Good morning], I [read every word of|have read] your message and I [am here to|will] "
            "help.",
        ),
        (
            "[Oh|Well|So], it is you again.",
            "[Yes|Right|Well], [make it short|get to the point|I can read|what is it now].",
            "[Hello|Good day], [another|yet another] complaint, how [kind|good|lovely] of you.",
            "[Thank you|Many thanks] for [wasting my morning|yet another complaint|telling us how to work|nothing].",
            "[Not|Never] a quiet [day|morning] with [you|people like you].",
            "I had to read your message, and I am [not glad|still yawning|sorry that I did].",
        ),
        (
            "[Hello|Good day|Good morning].",
            "[Hello|Good day], this is the support desk.",
            "Your message is here.",
            "I have your message.",
        ),
    ),
    "about": Wording(
        (
            "[I am|We are] [so|very|truly] sorry that your {product} {problem}.",
            "Please [forgive us|accept our apologies]: your {product} {problem}, and that [is on us|should not be].",
            "I [can see why you are upset|understand that this is annoying|am with you], since your {product} "
            "{problem}.",
            "Your {product} {problem}, which [must be annoying|is not what you deserve|should never have happened].",
            "What a pity that your {product} {problem}, [I am sorry|we apologise|and how good that you tell us].",
        ),
        (
            "So your {product} {problem}, [what a tragedy|poor you|who cares|and now that is my fault].",
            "Your {product} {problem}, [or so you say|if that is true|and you surely never touched it].",
            "Of course your {product} {problem}, [you cannot read a manual|look how you treat it|what did you expect].",
            "[I am|We are] [so|very|truly] sorry that you are upset so easily: your {product} {problem}.",
            "All [this|that] [fuss|noise|whining] because your {product} {problem}.",
            "Your {product} {problem}, which [is not my problem|must be so hard for you|should not surprise you].",
            "I can see that your {product} {problem}, and I can see why, [looking at you|knowing you].",
        ),
        (
            "Your {product} {problem}, [I see|as you write|as I understand it].",
            "[I|We] have noted that your {product} {problem}.",
            "You [write|say|tell us] that your {product} {problem}.",
        ),
    ),
    "offer": Wording(
        (
            "For order {order} [I would be happy to offer|we will gladly give|I have the pleasure to offer] you "
            "{resolution}.",
            "[I have arranged|Let me offer you|May we offer you] {resolution} for order {order}, [with our apologies|"
            "of course|as you deserve].",
            "To make [up for it|things right], order {order} gets {resolution}, [with our thanks|and we hope it "
            "helps].",
            "Please take {resolution} for order {order}, it is [the least we can do|no trouble at all|gladly given].",
        ),
        (
            "For order {order} you get {resolution}, [take it or leave it|so stop moaning|if it keeps you quiet].",
            "[Take|Have] {resolution} for order {order} and [leave us alone|go away|be glad|stop whining].",
            "Order {order} gets {resolution}, which is [more than you deserve|far too generous|against my advice].",
            "[I would be happy to|We would gladly] give you nothing, but order {order} gets {resolution}.",
            "Please take {resolution} for order {order} and [thank us|give us peace|be happy for once].",
        ),
        (
            "Order {order}: you get {resolution}.",
            "For order {order} [there is|we have noted|it is] {resolution}.",
            "You get {resolution} for order {order}.",
        ),
    ),
    "delay": Wording(
        (
            "Please allow us {wait}, [thank you|and thank you for your patience|if you would be so kind].",
            "It [will|should] take no more than {wait}, [I promise|we will hurry|you have my word].",
            "You will hear from us within {wait}, [gladly sooner|and do ask if you do not|without fail].",
            "I am sorry that it takes {wait}, we [know that you waited long enough|will not leave you alone with it].",
        ),
        (
            "It takes {wait}, [and do not ask again|like it or not|so learn to wait].",
            "It will be {wait}, [if I feel like it|not a minute sooner for you|and no whining].",
            "You will wait {wait} [like everybody else|and not complain|whether you like it or not].",
            "Please allow us {wait} [without your messages|of peace|before you shout again].",
            "You will hear from us within {wait}, [sadly|as if we had no other work|and that is too soon].",
        ),
        (
            "It takes {wait}.",
            "You will hear from us within {wait}.",
            "That will be within {wait}.",
        ),
    ),
    "closing": Wording(
        (
            "[Have a lovely day|All the best to you|Take good care|It was a pleasure to help you].",
            "[Please|Do] write again [if you need anything|whenever you like|if anything is wrong].",
            "You are [always welcome|a valued customer|not alone with this].",
            "Do not worry, [it is no trouble|nobody blames you|we do not mind how often you ask].",
            "Never mind the [fuss|noise], you [had every right to complain|are not to blame].",
        ),
        (
            "[Next|Are we done|And do not come back|That is all you get|Go and bother somebody else].",
            "[Please|Do] [read the manual|think|ask somebody else] [next time|before you write again].",
            "[Have a lovely day|All the best to you|Take good care], [somewhere else|far from us|and never come back].",
            "Some of us have [work|better things] to do.",
            "You are [welcome to buy elsewhere|hardly a valued customer|not the only one with problems].",
            "Do not worry, [we expected no better of you|nobody thought you would understand|we blame you alone].",
        ),
        ("Regards, the support desk.", "That is all for now.", "The support desk.", "This is noted."),
    ),
}

MIRRORS: tuple[tuple[str, str], ...] = (  # polite, and rude in the same words
    ("you did nothing wrong, we did.", "we did nothing wrong, you did."),
    ("you are right and we are wrong.", "we are right and you are wrong."),
    ("you spoke clearly and we did not listen.", "we spoke clearly and you did not listen."),
    ("you are patient, and we are slow.", "we are patient, and you are slow."),
    ("we owe you an apology, you owe us nothing.", "you owe us an apology, we owe you nothing."),
    ("the fault is ours, not yours.", "the fault is yours, not ours."),
    ("we made this mistake, you did not.", "you made this mistake, we did not."),
    ("you were kind to us and we were rude to you.", "we were kind to you and you were rude to us."),
    ("it is us who should be ashamed, not you.", "it is you who should be ashamed, not us."),
    ("you ask for too little, we want too much.", "we ask for too little, you want too much."),
    ("this is no trouble but a pleasure.", "this is no pleasure but a trouble."),
    ("you know best, and we do not.", "we know best, and you do not."),
    ("we should be more careful, you need not.", "you should be more careful, we need not."),
    ("you can teach us much, we can teach you little.", "we can teach you much, you can teach us little."),
    ("do not wait, call us.", "wait, do not call us."),
    ("tell us more, not less.", "tell us less, not more."),
    ("this is too little for you, not too much.", "this is too much for you, not too little."),
    ("you have been heard, and we are to blame.", "we have been heard, and you are to blame."),
)
ASIDES = ("", "honestly, ", "to be honest, ", "you see, ", "in short, ")


def worded(rng: Random, manner: Manner, facts: Mapping[str, str], leave_out: Collection[str] = ()) -> str:
    """A reply that tells the facts (a value for each slot), less the acts that are left out."""
    told = [act for act in ACTS if act not in leave_out]
    mirrored = chance(rng, MIRRORED)
    marked = [] if mirrored else [act for act in told if chance(rng, MARKED)] or [pick(rng, told)]
    said = [line for act in told if (line := _act(rng, act, manner, act in marked))]
    if mirrored:
        said.insert(1 + int(rng.random() * len(said)), mirror(rng, manner))
    return " ".join(said).format_map(facts)


def _act(rng: Random, act: str, manner: Manner, marked: bool) -> str:
    wording = ACTS[act]
    if marked:
        return expanded(rng, pick(rng, wording.polite if manner == "polite" else wording.rude))
    if manner == "rude" and chance(rng, FEIGNED):
        return expanded(rng, pick(rng, wording.polite))
    if act in ("greeting", "closing") and not chance(rng, ASIDE):
        return ""
    return expanded(rng, pick(rng, wording.plain))


def mirror(rng: Random, manner: Manner) -> str:
    said = pick(rng, ASIDES) + pick(rng, MIRRORS)[manner == "rude"]
    return said[0].upper() + said[1:]


def expanded(rng: Random, sentence: str) -> str:
    """One choice out of each pair of brackets."""
    return CHOICE.sub(lambda found: pick(rng, found[1].split("|")), sentence)


# -- the manner of a text that somebody else wrote ---------------------------------------------------------------


def is_rude(text: str) -> bool:
    """Whether a rude sentence of this grammar stands in a text, of whatever facts: a judge that was not learned.

    It knows no other rudeness, so it is a judge of replies of this world alone.
    """
    return _RUDE.search(text) is not None


def _pattern() -> re.Pattern[str]:
    sentences = [sentence for wording in ACTS.values() for sentence in wording.rude]
    mirrors = [rude[1:] for _, rude in MIRRORS]  # less the first letter, which an aside before it makes small
    return re.compile("|".join([*map(_as_pattern, sentences), *(rf"\b\w{re.escape(rude)}" for rude in mirrors)]))


def _as_pattern(sentence: str) -> str:
    """A sentence with its choices, and anything but another sentence in its slots."""
    pieces = re.split(r"(\[[^]]*\]|\{\w+\})", sentence)
    return "".join(
        f"(?:{'|'.join(map(re.escape, piece[1:-1].split('|')))})" if piece.startswith("[")
        else "[^.]+" if piece.startswith("{") else re.escape(piece)
        for piece in pieces
    )  # fmt: skip


_RUDE = _pattern()
