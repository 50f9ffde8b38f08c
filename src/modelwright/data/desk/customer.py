"""What the customer says, in how many ways.

A slot in braces stands for a fact (`{colour}`), for the way this case words its problem (`{problem}`), or
for a step of a correction (`{wrong}`, `{right}`). `{item}` is the product, with its colour if said in the
same breath.
"""

GREETINGS = (
    "Hello.",
    "Hi.",
    "Hello there.",
    "Good morning.",
    "Good afternoon.",
    "Good evening.",
    "Hi there.",
    "Hey.",
)

COMPLAINTS = (
    "My {item} {problem}.",
    "The {item} I bought from you {problem}.",
    "I have a problem with my {item}: it {problem}.",
    "The {item} from your shop {problem}.",
    "It is about my {item}, it {problem}.",
    "I am getting in touch because my {item} {problem}.",
    "The thing is, my {item} {problem}.",
    "You see, the {item} {problem}.",
    "My {item}? It {problem}.",
    "Can you help me with my {item}? It {problem}.",
    "There is something wrong with the {item}: it {problem}.",
    "You sold me the {item} and it {problem}.",
    "So, that {item} of yours {problem}.",
    "It turns out that my {item} {problem}.",
)

TELLS: dict[str, tuple[str, ...]] = {
    "customer": (
        "This is {customer}.",
        "My name is {customer}.",
        "I am {customer}.",
        "{customer} here.",
        "{customer} speaking.",
        "You are talking to {customer}.",
        "The name is {customer}.",
    ),
    "city": (
        "I live in {city}.",
        "I am writing from {city}.",
        "I am based in {city}.",
        "My address is in {city}.",
        "It went to my address in {city}.",
        "I am in {city}, by the way.",
        "We are in {city}.",
    ),
    "colour": (
        "It is the {colour} one.",
        "I chose it in {colour}.",
        "Mine is {colour}.",
        "I took the {colour} version.",
        "I mean the one in {colour}.",
        "The colour is {colour}.",
    ),
    "order": (
        "The order number is {order}.",
        "My order is {order}.",
        "It was order {order}.",
        "The reference is {order}.",
        "On the invoice it says {order}.",
        "You will find it under {order}.",
    ),
    "day": (
        "I ordered it on {day}.",
        "I bought it on {day}.",
        "I placed the order on {day}.",
        "It was ordered on {day}.",
        "I paid for it on {day}.",
        "The purchase was on {day}.",
    ),
}

TELLS_OF_TWO: dict[tuple[str, str], tuple[str, ...]] = {
    ("customer", "city"): (
        "This is {customer} from {city}.",
        "My name is {customer} and I live in {city}.",
        "{customer} here, from {city}.",
        "I am {customer}, writing from {city}.",
        "{customer}, {city}.",
    ),
    ("order", "day"): (
        "It is order {order}, placed on {day}.",
        "I ordered it on {day}, the number is {order}.",
        "Order {order}, bought on {day}.",
        "I have the receipt of {day} here, it says {order}.",
    ),
    ("colour", "day"): (
        "It is the {colour} one that I ordered on {day}.",
        "I chose the {colour} one on {day}.",
    ),
    ("colour", "order"): (
        "It is the {colour} one from order {order}.",
        "Order {order}, in {colour}.",
    ),
}

SHORT_ANSWERS: dict[str, tuple[str, ...]] = {
    "customer": ("{customer}.", "It is {customer}.", "Sure, {customer}."),
    "city": ("{city}.", "In {city}.", "From {city}.", "It is {city}."),
    "colour": ("I think it is called {colour}.", "It is {colour}.", "In {colour}.", "The {colour} one."),
    "order": ("{order}.", "It is {order}.", "It says {order}.", "That would be {order}."),
    "day": ("On {day}.", "{day}.", "That was on {day}.", "It must have been {day}."),
}

REFUSALS: dict[str, tuple[str, ...]] = {
    "customer": ("I would rather not give my name.", "My name does not matter here.", "No names, please."),
    "city": (
        "I would rather not say where I live.",
        "Does it matter where I am?",
        "I have just moved, so skip that.",
    ),
    "colour": (
        "I could not tell you the colour.",
        "The colour? No idea.",
        "I do not remember which colour I chose.",
    ),
    "order": ("I cannot find the number.", "I threw the invoice away.", "I do not have the number with me."),
    "day": (
        "I do not remember when that was.",
        "I forgot when I bought it.",
        "Some time ago, I could not say when.",
    ),
}

HESITATIONS = (
    "Um, let me see.",
    "Hold on.",
    "One second.",
    "Let me think.",
    "Wait, I have it here somewhere.",
    "Let me check.",
    "Er, yes.",
    "Where did I put it?",
    "Right.",
    "Of course.",
    "Sure.",
    "Okay.",
)

SLIPS = (
    "{wrong}, no, sorry, {right}",
    "{wrong}, I mean {right}",
    "{wrong}, or rather {right}",
    "{wrong}, wait, no, {right}",
    "{wrong}, no, {right}",
    "{wrong}, let me correct that, {right}",
)

AMENDS = (
    "Sorry, I said {wrong} before, but I meant {right}.",
    "I made a mistake: not {wrong} but {right}.",
    "Oh, one correction: not {wrong}, it is {right}.",
    "Wait, what I told you was wrong, it is {right}.",
    "Please change {wrong} to {right}, I mixed it up.",
)

DENIALS = (
    "No, {right}.",
    "Not quite, it is {right}.",
    "No, I said {right}.",
    "Almost: {right}.",
    "Wrong, {right}.",
)

SMALL_TALK = (
    "Sure, take your time.",
    "It has been raining here all morning.",
    "Sorry for the noise, my children are home.",
    "Please excuse me, my dog wants to go out.",
    "I have just made some tea anyway.",
    "It is so warm today, is it not?",
    "No hurry, I am on the bus.",
    "My neighbour told me to try your chat.",
    "Is it busy on your side today?",
    "I am in my lunch break, so that is fine.",
    "My sister has the same one, and hers works.",
    "It was meant to be a present for my mother.",
)

OPENERS: dict[str, tuple[str, ...]] = {
    "angry": (
        "I demand to speak to somebody who knows the job.",
        "You have some nerve to call this a shop.",
        "I am absolutely furious.",
        "For the third time this month, nothing but trouble.",
        "This is outrageous.",
        "I have had enough of your shop.",
        "What kind of service is this?",
        "I cannot believe what you sold me.",
        "You have wasted my whole week.",
        "Do you even check what you send out?",
        "I am fed up.",
        "Never in my life have I been treated like this.",
    ),
    "worried": (
        "I do not know what to do any more.",
        "Something is not right and it scares me.",
        "I am lost, I really need some help.",
        "Oh dear, I am in trouble.",
        "I do hope you can help me.",
        "I am getting rather nervous about this.",
        "I could not sleep because of this.",
        "I am afraid that something went wrong.",
        "I am a bit anxious, to be honest.",
        "Please tell me that this can be solved.",
        "I am not sure what will happen now.",
        "I fear I have lost my money.",
    ),
    "calm": (
        "I would like to report something.",
        "It is only a detail.",
        "I have a simple request.",
        "Just a short message from me.",
        "I have a small matter to report.",
        "There is no rush at all.",
        "It is nothing dramatic.",
        "I just wanted to let you know.",
        "I have a quick question.",
        "Whenever you have a minute, please have a look.",
        "These things happen, so no hard feelings.",
        "I am sure that we can sort this out.",
    ),
    "pleased": (
        "What a joy to write to you again.",
        "Let me say thank you for your great work first.",
        "Yours is my favourite shop.",
        "I am so glad that you answer at once.",
        "First of all, I love your shop.",
        "Your team has always been wonderful to me.",
        "I tell all my friends about you.",
        "How nice to reach a real person so fast.",
        "I must say, the parcel was packed beautifully.",
        "I am a happy customer of many years.",
        "Your last delivery was fantastic.",
        "What a lovely website you have, by the way.",
    ),
}

REMARKS: dict[str, tuple[str, ...]] = {
    "angry": (
        "I have already told this to three of your colleagues.",
        "Do not make me wait again.",
        "How hard can it be?",
        "I am losing my patience here.",
        "I want this fixed today.",
        "This is a disgrace.",
        "Are you even listening?",
        "You should be ashamed.",
    ),
    "worried": (
        "I hope that is not a bad sign.",
        "Is it my fault?",
        "I keep thinking about it.",
        "Will I lose everything I paid?",
        "It makes me uneasy.",
        "I really cannot afford to pay again.",
        "What if it gets worse?",
        "Oh dear, I hope I did nothing wrong.",
    ),
    "calm": (
        "There is plenty of time.",
        "I do not mind waiting.",
        "Just so that you have the full picture.",
        "It is not urgent.",
        "Whatever is easiest for you.",
        "I am at home all week, so it is all the same to me.",
        "We can take it step by step.",
        "I thought that you would like to know.",
    ),
    "pleased": (
        "You are so kind.",
        "It is a pleasure to talk to you.",
        "You are doing a great job.",
        "I am delighted with how fast you are.",
        "This is what I call good service.",
        "You make it so easy.",
        "I really enjoy shopping with you.",
        "How lovely of you to ask.",
    ),
}

REACTIONS: dict[str, tuple[str, ...]] = {
    "angry": (
        "It took you long enough.",
        "I should not have had to beg for that.",
        "That is the least you can do.",
        "Fine, but I will never shop with you again.",
        "I will believe it when I see it, you hopeless lot.",
        "You will read about this in my review.",
        "About time.",
        "And what about all the hours I lost?",
    ),
    "worried": (
        "Are you quite sure that will work?",
        "I hope nothing goes wrong this time.",
        "Please do not forget me.",
        "Could you confirm that in writing? I would feel safer.",
        "And if it happens again?",
        "I will keep my fingers crossed.",
        "Oh, I do hope so.",
        "I am still a little nervous, but thank you.",
    ),
    "calm": (
        "That works for me.",
        "All right, thank you.",
        "Sounds reasonable.",
        "Good, then we agree.",
        "That is fine with me.",
        "Okay, I will wait for your message.",
        "Very well.",
        "Understood, thanks.",
    ),
    "pleased": (
        "Wonderful, thank you so much!",
        "You have made my day.",
        "That is more than I hoped for!",
        "Perfect, you are a star.",
        "Brilliant, I knew I could count on you.",
        "How generous of you!",
        "I could not be happier.",
        "Great, five stars from me.",
    ),
}

DELAY_QUESTIONS = (
    "How long will that take?",
    "When will that be?",
    "How soon can I expect it?",
    "And how many days is that?",
    "When do I hear from you?",
)

GOODBYES = ("Bye.", "Goodbye.", "Bye then.", "That was all.", "Until next time.", "I have to go now, bye.")
