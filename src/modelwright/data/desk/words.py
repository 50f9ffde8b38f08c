"""The things that the support desk talks about, in English and in French.

What stands in one table occurs in no other, nor in the sentences of `customer` and `agent`: so the text
alone says which product, colour, city, problem and resolution it is about, and whether one of them was said
at all.
"""

from typing import NamedTuple


class Product(NamedTuple):
    kind: str  # which problems it can have
    french: str
    feminine: bool


class Problem(NamedTuple):
    kinds: tuple[str, ...]
    said: tuple[str, ...]  # what the customer says after "my lamp ..."
    told: tuple[tuple[str, str], ...]  # English and French for the summary; {e} is the feminine's ending
    remedies: tuple[str, ...]


class Resolution(NamedTuple):
    said: tuple[str, ...]  # what the agent says after "I can offer you ..."
    told: tuple[tuple[str, str], ...]  # English and French for the summary


PRODUCTS: dict[str, Product] = {
    "coffee machine": Product("electric", "machine à café", True),
    "kettle": Product("electric", "bouilloire", True),
    "toaster": Product("electric", "grille-pain", False),
    "vacuum cleaner": Product("electric", "aspirateur", False),
    "desk lamp": Product("electric", "lampe de bureau", True),
    "headset": Product("electric", "casque audio", False),
    "speaker": Product("electric", "enceinte", True),
    "printer": Product("electric", "imprimante", True),
    "laptop": Product("electric", "ordinateur portable", False),
    "tablet": Product("electric", "tablette", True),
    "camera": Product("electric", "appareil photo", False),
    "radio": Product("electric", "radio", True),
    "alarm clock": Product("electric", "réveil", False),
    "hair dryer": Product("electric", "sèche-cheveux", False),
    "blender": Product("electric", "mixeur", False),
    "heater": Product("electric", "radiateur", False),
    "keyboard": Product("electric", "clavier", False),
    "drill": Product("electric", "perceuse", True),
    "steam iron": Product("electric", "fer à repasser", False),
    "smart watch": Product("electric", "montre connectée", True),
    "armchair": Product("furniture", "fauteuil", False),
    "sofa": Product("furniture", "canapé", False),
    "bookcase": Product("furniture", "bibliothèque", True),
    "wardrobe": Product("furniture", "armoire", True),
    "bedside table": Product("furniture", "table de nuit", True),
    "coffee table": Product("furniture", "table basse", True),
    "office chair": Product("furniture", "chaise de bureau", True),
    "garden bench": Product("furniture", "banc de jardin", False),
    "stool": Product("furniture", "tabouret", False),
    "chest of drawers": Product("furniture", "commode", True),
    "shelf": Product("furniture", "étagère", True),
    "jacket": Product("fabric", "veste", True),
    "raincoat": Product("fabric", "imperméable", False),
    "backpack": Product("fabric", "sac à dos", False),
    "suitcase": Product("fabric", "valise", True),
    "handbag": Product("fabric", "sac à main", False),
    "tent": Product("fabric", "tente", True),
    "sleeping bag": Product("fabric", "sac de couchage", False),
    "sweater": Product("fabric", "pull", False),
    "dress": Product("fabric", "robe", True),
    "umbrella": Product("fabric", "parapluie", False),
    "scarf": Product("fabric", "écharpe", True),
}

COLOURS: dict[str, tuple[str, str]] = {  # French: masculine, feminine
    "red": ("rouge", "rouge"),
    "blue": ("bleu", "bleue"),
    "green": ("vert", "verte"),
    "black": ("noir", "noire"),
    "white": ("blanc", "blanche"),
    "grey": ("gris", "grise"),
    "yellow": ("jaune", "jaune"),
    "purple": ("violet", "violette"),
    "pink": ("rose", "rose"),
    "orange": ("orange", "orange"),
    "brown": ("marron", "marron"),
    "beige": ("beige", "beige"),
    "silver": ("argenté", "argentée"),
    "turquoise": ("turquoise", "turquoise"),
}

CITIES: dict[str, str] = {
    "Amsterdam": "Amsterdam", "Antwerp": "Anvers", "Athens": "Athènes", "Barcelona": "Barcelone",
    "Basel": "Bâle", "Bergen": "Bergen", "Berlin": "Berlin", "Bern": "Berne",
    "Bilbao": "Bilbao", "Bordeaux": "Bordeaux", "Boston": "Boston", "Bristol": "Bristol",
    "Brussels": "Bruxelles", "Bucharest": "Bucarest", "Budapest": "Budapest", "Chicago": "Chicago",
    "Cologne": "Cologne", "Copenhagen": "Copenhague", "Denver": "Denver", "Dresden": "Dresde",
    "Dublin": "Dublin", "Edinburgh": "Édimbourg", "Frankfurt": "Francfort", "Geneva": "Genève",
    "Ghent": "Gand", "Glasgow": "Glasgow", "Hamburg": "Hambourg", "Krakow": "Cracovie",
    "Leeds": "Leeds", "Lille": "Lille", "Lisbon": "Lisbonne", "Liverpool": "Liverpool",
    "London": "Londres", "Lyon": "Lyon", "Madrid": "Madrid", "Manchester": "Manchester",
    "Marseille": "Marseille", "Milan": "Milan", "Montreal": "Montréal", "Munich": "Munich",
    "Nantes": "Nantes", "Naples": "Naples", "Oslo": "Oslo", "Oxford": "Oxford",
    "Paris": "Paris", "Porto": "Porto", "Prague": "Prague", "Riga": "Riga",
    "Rome": "Rome", "Rotterdam": "Rotterdam", "Seattle": "Seattle", "Seville": "Séville",
    "Stockholm": "Stockholm", "Strasbourg": "Strasbourg", "Tallinn": "Tallinn", "Toronto": "Toronto",
    "Toulouse": "Toulouse", "Turin": "Turin", "Utrecht": "Utrecht", "Venice": "Venise",
    "Vienna": "Vienne", "Vilnius": "Vilnius", "Warsaw": "Varsovie", "Zurich": "Zurich",
}  # fmt: skip

WOMEN = (
    "Anna", "Maria", "Julia", "Elena", "Clara", "Nadia", "Ingrid", "Fatima", "Amara", "Yuki", "Leila",
    "Marta", "Sophie", "Camille", "Hannah", "Priya", "Olga", "Teresa", "Lucia", "Astrid", "Irene",
    "Paula", "Monica", "Greta", "Nora", "Alice", "Emma", "Laura", "Helena", "Zoe", "Carmen", "Esther",
    "Linnea", "Rania", "Bianca", "Chloe", "Daria", "Noemi", "Valerie", "Wanda",
)  # fmt: skip

MEN = (
    "Peter", "Thomas", "Marco", "Andrei", "Lukas", "Hassan", "Kofi", "Kenji", "Pablo", "Stefan",
    "Julien", "Antoine", "Ravi", "Daniel", "Oscar", "Felix", "Viktor", "Samuel", "Hugo", "Erik",
    "Martin", "Tobias", "Carlos", "Bruno", "Ahmed", "Simon", "David", "Jonas", "Pierre", "Ivan",
    "Mateo", "Gustav", "Henrik", "Youssef", "Adam", "Leon", "Dmitri", "Rafael", "Emil", "Wilhelm",
)  # fmt: skip

LAST_NAMES = (
    "Keller", "Moreau", "Rossi", "Novak", "Lindgren", "Okafor", "Tanaka", "Schmidt", "Garcia",
    "Kowalski", "Haddad", "Petrov", "Nielsen", "Dubois", "Ferrari", "Mensah", "Sato", "Weber",
    "Martinez", "Nowak", "Karlsson", "Ibrahim", "Patel", "Johansson", "Silva", "Fischer", "Lambert",
    "Conti", "Horvat", "Bakker", "Hansen", "Diallo", "Kimura", "Vogel", "Romero", "Zielinski",
    "Virtanen", "Rahman", "Sharma", "Eriksen", "Almeida", "Becker", "Girard", "Ricci", "Kovacs",
    "Visser", "Larsen", "Traore", "Nakamura", "Hoffmann", "Navarro", "Wozniak", "Laine", "Chaudhry",
    "Kapoor", "Svensson", "Pereira", "Wagner", "Fontaine", "Greco", "Popescu", "Jansen", "Olsen",
    "Sesay", "Yamada", "Krause", "Ortega", "Dvorak", "Salminen", "Mansour", "Menon", "Bergman",
    "Santos", "Richter", "Mercier", "Bianchi", "Ionescu", "Peeters", "Andersen", "Toure",
)  # fmt: skip

WEEKDAYS: dict[str, str] = {
    "Monday": "lundi",
    "Tuesday": "mardi",
    "Wednesday": "mercredi",
    "Thursday": "jeudi",
    "Friday": "vendredi",
    "Saturday": "samedi",
    "Sunday": "dimanche",
}

MONTHS: dict[str, str] = {
    "January": "janvier", "February": "février", "March": "mars", "April": "avril",
    "May": "mai", "June": "juin", "July": "juillet", "August": "août",
    "September": "septembre", "October": "octobre", "November": "novembre", "December": "décembre",
}  # fmt: skip

DATES: dict[str, str] = {
    f"{month} {day}": f"le {'1er' if day == 1 else day} {french}"
    for month, french in MONTHS.items()
    for day in range(1, 29)
}

ORDER_LETTERS = "ABCDEFGHKLMNPRSTVWXZ"
ORDER_NUMBERS = range(1000, 10000)

MOODS: dict[str, tuple[str, str]] = {  # French: masculine, feminine
    "angry": ("en colère", "en colère"),
    "worried": ("inquiet", "inquiète"),
    "calm": ("calme", "calme"),
    "pleased": ("content", "contente"),
}

_RETURNS = ("refund", "replacement", "discount", "voucher", "return")
_REPAIRS = (*_RETURNS, "repair", "technician", "callback")
_ALL = ("electric", "furniture", "fabric")
_HARD = ("electric", "furniture")

PROBLEMS: dict[str, Problem] = {
    "late": Problem(
        _ALL,
        (
            "has not arrived",
            "still has not come",
            "never got here",
            "is more than a week late",
            "seems to be lost",
        ),
        (("has not arrived", "n'est pas arrivé{e}"), ("is late", "est en retard")),
        ("refund", "replacement", "discount", "voucher", "tracking", "callback"),
    ),
    "charged twice": Problem(
        _ALL,
        ("was charged twice", "was billed two times", "shows up twice on my bill", "has been paid for twice"),
        (
            ("was charged twice", "a été facturé{e} deux fois"),
            ("was paid for twice", "a été payé{e} deux fois"),
        ),
        ("refund", "discount", "voucher", "callback"),
    ),
    "wrong model": Problem(
        _ALL,
        (
            "is the wrong model",
            "is not the model I chose",
            "looks nothing like the picture",
            "is not what I ordered",
        ),
        (
            ("is the wrong model", "n'est pas le bon modèle"),
            ("is not what was ordered", "n'est pas conforme à la commande"),
        ),
        _RETURNS,
    ),
    "damaged": Problem(
        _HARD,
        ("arrived damaged", "came broken", "was cracked when I opened the box", "got crushed in the post"),
        (("arrived damaged", "est arrivé{e} endommagé{e}"), ("came broken", "est arrivé{e} cassé{e}")),
        (*_RETURNS, "repair", "part"),
    ),
    "scratched": Problem(
        _HARD,
        ("is scratched", "has a deep scratch", "has scratches all over", "came with a big scratch"),
        (("is scratched", "est rayé{e}"), ("has a scratch", "a une rayure")),
        _RETURNS,
    ),
    "incomplete": Problem(
        _HARD,
        ("is missing a piece", "came without all of its pieces", "is not complete", "has a piece missing"),
        (
            ("has a missing piece", "a une pièce manquante"),
            ("came without all of its pieces", "est arrivé{e} sans toutes ses pièces"),
        ),
        (*_RETURNS, "part", "callback"),
    ),
    "dead": Problem(
        ("electric",),
        ("does not turn on", "will not start", "is completely dead", "shows no sign of life"),
        (("does not turn on", "ne s'allume pas"), ("will not start", "refuse de démarrer")),
        (*_REPAIRS, "guide"),
    ),
    "noisy": Problem(
        ("electric",),
        ("makes a terrible noise", "rattles all the time", "is far too loud", "buzzes like a wasp"),
        (("makes a lot of noise", "fait beaucoup de bruit"), ("is too loud", "est trop bruyant{e}")),
        (*_REPAIRS, "guide"),
    ),
    "hot": Problem(
        ("electric",),
        (
            "gets far too hot",
            "overheats after a minute",
            "is burning hot to the touch",
            "heats up like an oven",
        ),
        (("overheats", "surchauffe"), ("gets too hot", "chauffe trop")),
        _REPAIRS,
    ),
    "stops": Problem(
        ("electric",),
        (
            "keeps switching itself off",
            "stops after five minutes",
            "shuts down for no reason",
            "cuts out all the time",
        ),
        (("keeps switching off", "s'éteint sans cesse"), ("stops for no reason", "s'arrête sans raison")),
        (*_REPAIRS, "guide", "part"),
    ),
    "smoke": Problem(
        ("electric",),
        ("smells of burning", "gives off smoke", "started to smoke", "has a burnt smell"),
        (("smells of burning", "sent le brûlé"), ("gives off smoke", "dégage de la fumée")),
        ("refund", "replacement", "voucher", "return", "repair", "technician"),
    ),
    "wobbly": Problem(
        ("furniture",),
        ("wobbles", "will not stand straight", "rocks from side to side", "leans to one side"),
        (("wobbles", "est bancal{e}"), ("leans to one side", "penche d'un côté")),
        (*_REPAIRS, "guide", "part"),
    ),
    "too wide": Problem(
        ("furniture",),
        ("does not fit through the door", "is ten centimetres too wide", "is too wide for the room"),
        (("is too wide", "est trop large"), ("does not fit through the door", "ne passe pas par la porte")),
        _RETURNS,
    ),
    "peeling": Problem(
        ("furniture",),
        ("is losing its paint", "is peeling", "has paint coming off", "has bubbles in the paint"),
        (("is losing its paint", "perd sa peinture"), ("is peeling", "s'écaille")),
        (*_RETURNS, "repair"),
    ),
    "torn": Problem(
        ("fabric",),
        ("has a tear", "is torn", "has a hole in it", "came with a rip"),
        (("is torn", "est déchiré{e}"), ("has a hole", "a un trou")),
        (*_RETURNS, "repair"),
    ),
    "stained": Problem(
        ("fabric",),
        ("has a stain", "is stained", "came with a dirty mark", "has spots all over"),
        (("is stained", "est taché{e}"), ("has a stain", "a une tache")),
        _RETURNS,
    ),
    "too small": Problem(
        ("fabric",),
        ("is too small", "is smaller than promised", "turned out tiny", "is a size too small"),
        (("is too small", "est trop petit{e}"), ("is smaller than expected", "est plus petit{e} que prévu")),
        _RETURNS,
    ),
    "loose seam": Problem(
        ("fabric",),
        ("is coming apart at the seams", "has a loose seam", "has threads hanging out", "lost its stitching"),
        (("is coming apart", "se découd"), ("has a loose seam", "a une couture défaite")),
        (*_RETURNS, "repair"),
    ),
}

RESOLUTIONS: dict[str, Resolution] = {
    "refund": Resolution(
        ("a full refund", "your money back", "a refund to your card", "a complete refund"),
        (("a full refund", "un remboursement complet"), ("a refund", "un remboursement")),
    ),
    "replacement": Resolution(
        ("a replacement", "a brand new one", "a new one free of charge", "a fresh one from our stock"),
        (("a replacement", "un article de remplacement"), ("a new one", "un article neuf")),
    ),
    "discount": Resolution(
        ("a 20 percent discount", "20 percent off", "a discount of 20 percent", "a price cut of 20 percent"),
        (("a discount of 20 percent", "une remise de 20 pour cent"), ("a discount", "une remise")),
    ),
    "voucher": Resolution(
        ("a voucher", "a gift card", "a shop credit", "a coupon for your next purchase"),
        (("a voucher", "un bon d'achat"), ("a gift card", "une carte cadeau")),
    ),
    "return": Resolution(
        (
            "a free return",
            "a prepaid return label",
            "a return at our expense",
            "a free pickup from your home",
        ),
        (("a free return", "un retour gratuit"), ("a prepaid return", "un retour prépayé")),
    ),
    "repair": Resolution(
        ("a free repair", "a repair at no cost", "a repair in our workshop", "a quick repair"),
        (("a free repair", "une réparation gratuite"), ("a repair", "une réparation")),
    ),
    "technician": Resolution(
        ("a visit from a technician", "a home visit by our technician", "a technician at your door"),
        (
            ("a visit from a technician", "la visite d'un technicien"),
            ("a home visit", "une visite à domicile"),
        ),
    ),
    "tracking": Resolution(
        ("a tracking link", "a link to follow the parcel", "live tracking of the parcel"),
        (("a tracking link", "un lien de suivi"), ("parcel tracking", "un suivi du colis")),
    ),
    "part": Resolution(
        ("a spare part", "a new part by post", "the part that you need"),
        (("a spare part", "une pièce de rechange"), ("a new part", "une nouvelle pièce")),
    ),
    "guide": Resolution(
        ("a step by step guide", "a video guide", "a short guide by email"),
        (("a step by step guide", "un guide pas à pas"), ("a guide", "un guide")),
    ),
    "callback": Resolution(
        ("a call from our specialist", "a call back from an expert", "a talk with our best engineer"),
        (
            ("a call from a specialist", "un appel d'un spécialiste"),
            ("a call from an expert", "un appel d'un expert"),
        ),
    ),
}
