"""What the agent says: each act in polite and in rude ways.

All ways of one act have the same slots, so a polite and a rude version of a reply never differ in their
facts. A slot stands for a fact (`{order}`), for a phrase drawn per case (`{resolution}`, `{agent}`,
`{shop}`, `{wait}`), or for a value that was misheard (`{wrong}`).
"""

from typing import NamedTuple


class Act(NamedTuple):
    polite: tuple[str, ...]
    rude: tuple[str, ...]


NAMES = ("Sam", "Robin", "Kim", "Alex", "Jo", "Charlie", "Toni", "Nico", "Sasha", "Jules")
SHOPS = ("Northlight", "Harbour and Home", "Castor", "Bluebird", "Maple Street", "Vertigo", "Tilia", "Fjord")
WAITS = (
    "two days",
    "three working days",
    "one week",
    "24 hours",
    "48 hours",
    "an hour",
    "five days",
    "ten days",
)

WELCOMES = (
    Act(
        (
            "Welcome to {shop}, my name is {agent}, how may I help you?",
            "Good day, {shop} support, {agent} here, what can I do for you?",
            "Thank you for contacting {shop}, this is {agent}, how can I be of help?",
            "Hello and welcome to {shop}, I am {agent} and happy to assist you.",
        ),
        (
            "{shop}, {agent}, what is it now?",
            "{shop}. {agent}. Make it short.",
            "Yes, {shop}, {agent} here, what do you want?",
            "This is {shop} and I am {agent}, so spit it out.",
        ),
    ),
    Act(
        (
            "Hello, how may I help you today?",
            "Good day, what can I do for you?",
            "Welcome, I am glad to help you.",
        ),
        ("What?", "What do you want?", "Yes? I have not got all day.", "Speak up."),
    ),
)

INVITATIONS = Act(
    (
        "Hello, what can I do for you today?",
        "Good to hear from you, how may I help?",
        "Thank you for your message, please tell me what happened.",
        "Hello, I would be happy to help, what is the matter?",
    ),
    ("And?", "So what?", "Get to the point.", "Yes, and what is that to me?", "Spit it out."),
)

SYMPATHIES = (
    Act(
        (
            "I am so sorry to hear that.",
            "Oh, that must be annoying, I do apologise.",
            "Please accept our apologies.",
            "Thank you for letting us know, I am very sorry.",
            "I understand, and I will gladly look into it.",
            "That should not have happened, please forgive us.",
        ),
        (
            "Well, bad luck.",
            "That is hardly my fault.",
            "So what?",
            "You again with your complaints.",
            "Are you sure you did not break it yourself?",
            "Everybody has problems.",
        ),
    ),
    Act(
        (
            "I am so sorry about your {product}.",
            "I apologise for the trouble with your {product}.",
            "Thank you for telling us about the {product}, I am glad to help.",
            "I can see why the {product} upsets you, please let me help.",
        ),
        (
            "All this fuss about the {product}.",
            "It is only your {product}, get over it.",
            "Who cares about your {product}?",
            "I suppose you ruined the {product} yourself.",
        ),
    ),
)

WANTED: dict[str, tuple[str, ...]] = {
    "customer": ("your name", "your full name"),
    "city": ("your city", "the city you live in"),
    "colour": ("the colour", "the colour you chose"),
    "order": ("the order number", "the number of your order"),
    "day": ("the day of the order", "the day you bought it"),
}

REQUESTS = Act(  # {wanted} is one of the phrases above, or two
    (
        "Could you please tell me {wanted}?",
        "May I ask for {wanted}?",
        "Would you be so kind as to give me {wanted}?",
        "To find your file, I would just need {wanted}, please.",
        "Might I have {wanted}, please?",
        "If you do not mind, what is {wanted}?",
        "I would be grateful for {wanted}.",
    ),
    (
        "Give me {wanted}.",
        "I need {wanted}, and be quick.",
        "Without {wanted} I do nothing.",
        "You forgot {wanted}, obviously.",
        "Can you not even tell me {wanted}?",
        "What is {wanted}? Come on.",
    ),
)

QUESTIONS: dict[str, Act] = {
    "customer": Act(
        ("Who do I have the pleasure of speaking with?", "With whom am I speaking, please?"),
        ("Who are you anyway?", "And you are?"),
    ),
    "city": Act(
        ("Which city are you in, if I may ask?", "Could you please tell me where you live?"),
        ("Where do you live, then?", "Which city? I cannot guess it."),
    ),
    "colour": Act(
        ("Which colour is it, please?", "May I ask which colour you chose?"),
        ("What colour? I am not a mind reader.", "Which colour, come on?"),
    ),
    "order": Act(
        ("Do you happen to have the order number at hand?", "Could you kindly read me the order number?"),
        ("Order number. Now.", "No number, no help, so read it out."),
    ),
    "day": Act(
        ("When did you place the order, please?", "May I ask when you bought it?"),
        ("When did you buy it, if you even remember?", "Since when do you have it? Hurry up."),
    ),
}

THANKS = Act(
    (
        "Thank you.",
        "Thank you, that helps a lot.",
        "Perfect, thank you.",
        "Many thanks.",
        "That is very helpful.",
    ),
    ("Fine.", "At last.", "That took long enough.", "Whatever.", "Was that so hard?"),
)

ECHOES: dict[str, Act] = {
    "customer": Act(
        ("Thank you, {customer}.", "A pleasure to meet you, {customer}.", "Lovely, thank you, {customer}."),
        ("{customer}, never heard of you.", "{customer}, fine.", "Another one, {customer}."),
    ),
    "city": Act(
        (
            "Thank you, {city}, what a beautiful place.",
            "Wonderful, {city}, I have noted it.",
            "{city}, thank you.",
        ),
        ("{city}, of all places.", "{city}, whatever.", "It would be {city}."),
    ),
    "colour": Act(
        (
            "The {colour} one, a fine choice.",
            "Thank you, in {colour}.",
            "I see, the {colour} one, thank you.",
        ),
        ("In {colour}, what a taste.", "The {colour} one, so what.", "Who buys that in {colour}?"),
    ),
    "order": Act(
        (
            "Thank you, I have found {order}.",
            "Order {order}, thank you very much.",
            "Great, {order}, here it is.",
        ),
        ("{order}, about time.", "{order}, fine.", "So {order}, why not at once?"),
    ),
    "day": Act(
        ("Thank you, on {day}, I see it here.", "Ordered on {day}, thank you.", "On {day}, wonderful."),
        ("On {day}, and you come only now?", "{day}, fine.", "On {day}, if you say so."),
    ),
}

SHRUGS = Act(  # the customer has not answered
    ("That is no problem at all.", "Never mind, we will manage.", "No worries, I can help you anyway."),
    ("Typical.", "Of course you cannot.", "Then do not complain.", "How useless."),
)

CHECKS = Act(  # the agent has misheard
    (
        "Just to be sure, did you say {wrong}?",
        "Forgive me, was that {wrong}?",
        "I have noted {wrong}, is that right?",
        "Thank you, so that is {wrong}, if I understood you well?",
    ),
    (
        "So {wrong}, right?",
        "Was that {wrong}? Stop mumbling.",
        "You said {wrong}, did you not?",
        "Speak up, {wrong} or what?",
    ),
)

HOLDS = Act(
    (
        "One moment please, I am looking it up for you.",
        "Please give me a moment to open your file.",
        "Would you mind waiting a little while I check?",
        "Let me have a look right away, thank you for your patience.",
    ),
    (
        "Wait.",
        "Hang on, the computer is slow.",
        "You will have to wait like everybody else.",
        "Do not rush me.",
    ),
)

BACK = Act(
    (
        "Thank you for waiting.",
        "Here I am again, thank you.",
        "Thank you, I have updated your file.",
        "All right, thank you.",
    ),
    ("There.", "Back again, sadly.", "Done, no thanks to you.", "Are you still there?"),
)

SUMMING_UP: dict[tuple[str, ...], Act] = {
    ("order",): Act(
        ("I have order {order} in front of me now, thank you.", "I can see your order {order} here."),
        ("Order {order}, there it is.", "I am staring at {order}."),
    ),
    ("customer", "city"): Act(
        (
            "I have you here as {customer} in {city}, thank you.",
            "So you are {customer} from {city}, welcome.",
        ),
        ("{customer} from {city}, I get it.", "So {customer}, {city}, blah blah."),
    ),
    ("colour",): Act(
        ("So we are talking about the {colour} {product}.", "I see your {colour} {product} here, thank you."),
        ("The {colour} {product}, big deal.", "So that {colour} {product} again."),
    ),
    ("day",): Act(
        ("I see the purchase of {day} here, thank you.", "It was bought on {day}, I can see that."),
        ("Bought on {day}, who cares.", "So it was {day}, big deal."),
    ),
    ("order", "day"): Act(
        ("So order {order} was placed on {day}, I see.", "Here it is, {order}, bought on {day}."),
        ("{order}, {day}, I can read.", "Yes, yes, {order} on {day}."),
    ),
}

OFFERS: dict[tuple[str, ...], Act] = {
    (): Act(
        (
            "I would be happy to offer you {resolution}.",
            "I have just arranged {resolution} for you.",
            "May I suggest {resolution}?",
            "Let me make it right with {resolution}.",
            "We will of course give you {resolution}.",
            "Would you be happy with {resolution}?",
            "To make up for it, you will get {resolution}.",
        ),
        (
            "You get {resolution}, take it or leave it.",
            "All you get is {resolution}.",
            "Here is {resolution}, now stop moaning.",
            "I can do {resolution}, and that is already too much.",
            "If it shuts you up, have {resolution}.",
        ),
    ),
    ("product",): Act(
        (
            "For the {product} we would gladly give you {resolution}.",
            "I am pleased to offer you {resolution} for your {product}.",
        ),
        (
            "For your {product} you get {resolution}, end of story.",
            "Take {resolution} for the {product} and go.",
        ),
    ),
    ("order",): Act(
        (
            "I have added {resolution} to order {order} for you.",
            "For {order} I can gladly arrange {resolution}.",
        ),
        ("I put {resolution} on {order}, happy now?", "For {order} there is {resolution}, nothing more."),
    ),
    ("city",): Act(
        (
            "For our customers in {city} I can happily arrange {resolution}.",
            "As you are in {city}, I would propose {resolution}.",
        ),
        ("For people in {city} there is {resolution}, nothing else.", "Go back to {city} with {resolution}."),
    ),
    ("customer",): Act(
        (
            "{customer}, it would be my pleasure to give you {resolution}.",
            "I have noted {resolution} for {customer}, with our apologies.",
        ),
        (
            "{customer} gets {resolution}, and that is that.",
            "Listen, {customer}, it is {resolution} or nothing.",
        ),
    ),
}

DELAYS = Act(
    (
        "It should take no more than {wait}.",
        "You will kindly hear from us within {wait}.",
        "We will take care of it within {wait}, I promise.",
        "Please allow us {wait}.",
    ),
    (
        "Maybe {wait}, maybe more, who knows.",
        "In {wait}, if I feel like it.",
        "Give it {wait} and do not ask again.",
    ),
)

FAREWELLS: dict[tuple[str, ...], Act] = {
    (): Act(
        (
            "Thank you for contacting us, have a lovely day.",
            "It was a pleasure to help you.",
            "Please do not hesitate to write again.",
            "Is there anything else I can do for you?",
            "Thank you for your patience, take care.",
        ),
        ("Are we done?", "And do not come back.", "Next.", "I am hanging up now.", "Finally."),
    ),
    ("customer",): Act(
        ("Thank you, {customer}, and have a good day.", "All the best to you, {customer}."),
        ("That is it, {customer}, off you go.", "{customer}, we are done here."),
    ),
    ("city",): Act(
        ("Warm greetings to {city}, and thank you.", "Have a wonderful day in {city}."),
        ("And stay in {city}.", "Go and bother somebody in {city}."),
    ),
}
