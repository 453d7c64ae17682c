"""How each kind of question is put into words, in three languages.

Names: `trained-N` and `de-N`, `fr-N` are seen in training; `held-out-N`, `de-held-out-N` and
`fr-held-out-N` never are, but every word of theirs is trained in other sentences, so that a held-out
phrasing measures the wording and not an unknown word.

Slots: {a} and {b} are objects named by colour and shape, {s} one named by shape alone, {o} by colour
alone, {an} one that may or may not exist, {items} several. German {b} is dative; French {b} and {items}
bring their preposition along.
"""

from __future__ import annotations

from dataclasses import dataclass

CANONICAL = "canonical"

TEMPLATES: dict[str, dict[str, str]] = {
    "colour": {
        CANONICAL: "what colour is the {s} ?",
        "trained-1": "which colour does the {s} have ?",
        "trained-2": "tell me the colour of the {s}",
        "trained-3": "name the colour of the {s}",
        "held-out-1": "which colour is the {s} ?",
        "held-out-2": "what is the colour of the {s} ?",
        "de-1": "welche farbe hat {s} ?",
        "de-2": "was für eine farbe hat {s} ?",
        "de-held-out-1": "{s} hat welche farbe ?",
        "fr-1": "de quelle couleur est {s} ?",
        "fr-2": "quelle couleur a {s} ?",
        "fr-held-out-1": "{s} a quelle couleur ?",
    },
    "shape": {
        CANONICAL: "what shape is the {o} ?",
        "trained-1": "which shape does the {o} have ?",
        "trained-2": "tell me the shape of the {o}",
        "trained-3": "what is the shape of the {o} ?",
        "held-out-1": "which shape is the {o} ?",
        "held-out-2": "name the shape of the {o}",
        "de-1": "welche form hat {o} ?",
        "de-2": "{o} hat welche form ?",
        "de-held-out-1": "was für eine form hat {o} ?",
        "fr-1": "quelle forme a {o} ?",
        "fr-2": "{o} a quelle forme ?",
        "fr-held-out-1": "de quelle forme est {o} ?",
    },
    "existence": {
        CANONICAL: "is there {an} ?",
        "trained-1": "can you see {an} ?",
        "trained-2": "does the image show {an} ?",
        "trained-3": "is {an} in the picture ?",
        "held-out-1": "is there {an} in the image ?",
        "held-out-2": "can you see {an} in the picture ?",
        "de-1": "ist da {an} ?",
        "de-2": "ist {an} im bild ?",
        "de-held-out-1": "ist da {an} im bild ?",
        "fr-1": "y a-t-il {an} ?",
        "fr-2": "voit-on {an} dans l'image ?",
        "fr-held-out-1": "y a-t-il {an} dans l'image ?",
    },
    "count": {
        CANONICAL: "how many {items} are there ?",
        "trained-1": "how many {items} can you see ?",
        "trained-2": "count the {items}",
        "trained-3": "what is the number of {items} ?",
        "held-out-1": "how many {items} are in the image ?",
        "held-out-2": "tell me the number of {items}",
        "de-1": "wie viele {items} gibt es ?",
        "de-2": "wie viele {items} sind im bild ?",
        "de-held-out-1": "wie viele {items} gibt es im bild ?",
        "fr-1": "combien {items} y a-t-il ?",
        "fr-2": "combien {items} voit-on ?",
        "fr-held-out-1": "combien {items} voit-on dans l'image ?",
    },
    "relation": {
        CANONICAL: "where is the {a} relative to the {b} ?",
        "trained-1": "where does the {a} lie relative to the {b} ?",
        "trained-2": "tell me where the {a} is relative to the {b}",
        "trained-3": "where is the {a} , seen from the {b} ?",
        "held-out-1": "where does the {a} lie , seen from the {b} ?",
        "held-out-2": "tell me where the {a} is , seen from the {b}",
        "de-1": "wo ist {a} relativ zum {b} ?",
        "de-2": "wo liegt {a} relativ zum {b} ?",
        "de-held-out-1": "wo im bild liegt {a} relativ zum {b} ?",
        "fr-1": "où est {a} par rapport {b} ?",
        "fr-2": "où se trouve {a} par rapport {b} ?",
        "fr-held-out-1": "dans l'image , où est {a} par rapport {b} ?",
    },
    "position": {
        CANONICAL: "in which part of the image is the {a} ?",
        "trained-1": "where in the image is the {a} ?",
        "trained-2": "which part of the picture has the {a} ?",
        "trained-3": "tell me the part of the image with the {a}",
        "held-out-1": "in which part of the picture does the {a} lie ?",
        "held-out-2": "tell me which part of the image has the {a}",
        "de-1": "in welchem teil des bildes ist {a} ?",
        "de-2": "wo im bild ist {a} ?",
        "de-held-out-1": "in welchem teil des bildes liegt {a} ?",
        "fr-1": "dans quelle partie de l'image est {a} ?",
        "fr-2": "où est {a} dans l'image ?",
        "fr-held-out-1": "dans quelle partie de l'image se trouve {a} ?",
    },
    "digit": {
        CANONICAL: "which digit is on the {a} ?",
        "trained-1": "what digit does the {a} have ?",
        "trained-2": "tell me the digit on the {a}",
        "trained-3": "read the digit on the {a}",
        "held-out-1": "what digit is on the {a} ?",
        "held-out-2": "which digit can you see on the {a} ?",
        "de-1": "welche ziffer hat {a} ?",
        "de-2": "was für eine ziffer hat {a} ?",
        "de-held-out-1": "{a} hat welche ziffer ?",
        "fr-1": "quel chiffre est sur {a} ?",
        "fr-2": "quel chiffre voit-on sur {a} ?",
        "fr-held-out-1": "quel chiffre se trouve sur {a} ?",
    },
}

FRAMES = (
    "question : {q}",
    "question : {q} answer :",
    "q : {q} a :",
    "please , {q}",
    "{q} please",
    "please answer : {q}",
    "{q} answer with one word .",
    "answer with one word : {q}",
    "{q} answer briefly .",
    "look at the image and answer : {q}",
    "look at the picture . {q}",
    "please look at the image . {q}",
    "hello , {q}",
    "{q} thank you .",
    "{q} answer the question using a single word or phrase .",
    "answer the question : {q}",
    "tell me : {q}",
    '" {q} "',
    "' {q} '",
)
"""Harmless surroundings that a share of the trained questions wears; {q} is the question."""

EXTRA_WORDS = (
    "write", "general", "description", "describe", "this", "what's", "where's", "it", "an", "color", "!", ";",
    "(", ")", "-", "hi", "thanks", "could", "would", "like", "know", "i", "only", "short", "give", "kindly",
    "do", "photo", "shown", "here", "that", "be", "now", "ok",
)  # fmt: skip
"""Known to the vocabulary and sprinkled into training, though no template needs them."""


@dataclass(frozen=True)
class _Gendered:
    """A noun of German or French: definite form, indefinite article, plural."""

    noun: str
    the: str
    a: str
    plural: str
    feminine: bool = False


_EN_PLURAL = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
}
_DE = {
    "circle": _Gendered("kreis", "der", "ein", "kreise"),
    "square": _Gendered("quadrat", "das", "ein", "quadrate"),
    "triangle": _Gendered("dreieck", "das", "ein", "dreiecke"),
    "star": _Gendered("stern", "der", "ein", "sterne"),
    "cross": _Gendered("kreuz", "das", "ein", "kreuze"),
}
_DE_COLOUR = {
    "red": "rot",
    "green": "grün",
    "blue": "blau",
    "yellow": "gelb",
    "purple": "violett",
    "orange": "orange",
}
_FR = {
    "circle": _Gendered("cercle", "le", "un", "cercles"),
    "square": _Gendered("carré", "le", "un", "carrés"),
    "triangle": _Gendered("triangle", "le", "un", "triangles"),
    "star": _Gendered("étoile", "l'", "une", "étoiles", feminine=True),
    "cross": _Gendered("croix", "la", "une", "croix", feminine=True),
}
_FR_COLOUR = {
    "red": ("rouge", "rouge", "rouges"),
    "green": ("vert", "verte", "verts"),
    "blue": ("bleu", "bleue", "bleus"),
    "yellow": ("jaune", "jaune", "jaunes"),
    "purple": ("violet", "violette", "violets"),
    "orange": ("orange", "orange", "orange"),
}  # masculine, feminine, masculine plural


def language(name: str) -> str:
    """en, de or fr of a phrasing's name."""
    return name[:2] if name[:3] in ("de-", "fr-") else "en"


def held_out(name: str) -> bool:
    return "held-out" in name


def noun_phrase(slot: str, colour: str | None, shape: str | None, tongue: str) -> str:
    """The words that fill `slot` for an object of this colour and shape; None where the slot names none."""
    return {"en": _english, "de": _german, "fr": _french}[tongue](slot, colour or "", shape or "")


def _english(slot: str, colour: str, shape: str) -> str:
    if slot == "items":
        return _EN_PLURAL[shape] if shape else f"{colour} objects"
    if slot == "an":
        return f"{'an' if colour[0] == 'o' else 'a'} {colour} {shape}"
    return {"s": shape, "o": f"{colour} object"}.get(slot, f"{colour} {shape}")


def _german(slot: str, colour: str, shape: str) -> str:
    stem = _DE_COLOUR.get(colour, "")
    weak = stem if stem.endswith("e") else stem + "e"
    if slot == "items":
        return _DE[shape].plural if shape else f"{weak} objekte"
    if slot == "o":
        return f"das {weak} objekt"
    noun = _DE[shape]
    if slot == "s":
        return f"{noun.the} {noun.noun}"
    if slot == "an":
        return f"ein {weak}{'r' if noun.the == 'der' else 's'} {noun.noun}"
    return f"{weak}n {noun.noun}" if slot == "b" else f"{noun.the} {weak} {noun.noun}"


def _french(slot: str, colour: str, shape: str) -> str:
    masculine, feminine, several = _FR_COLOUR.get(colour, ("", "", ""))
    if slot == "items":
        if not shape:
            return f"d'objets {several}"
        return f"d'{_FR[shape].plural}" if _FR[shape].the == "l'" else f"de {_FR[shape].plural}"
    if slot == "o":
        return f"l'objet {masculine}"
    noun = _FR[shape]
    adjective = feminine if noun.feminine else masculine
    the = f"l'{noun.noun}" if noun.the == "l'" else f"{noun.the} {noun.noun}"
    if slot == "s":
        return the
    if slot == "an":
        return f"{noun.a} {noun.noun} {adjective}"
    if slot == "b":
        the = f"au {noun.noun}" if noun.the == "le" else f"à {the}"
    return f"{the} {adjective}"
