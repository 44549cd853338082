"""Numbers with their units, in one form: 0.5 g is 500 mg, every 8 hours is three times a day."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from blender_med.fusers.claims.lists import LABEL
from blender_med.fusers.claims.words import STOP_WORDS, words

_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
            "eleven", "twelve")  # fmt: skip
_WORDS = {
    name: float(value)
    for value, name in enumerate(_COUNTED)
} | {
    "fifteen": 15.0, "twenty": 20.0, "thirty": 30.0, "forty": 40.0, "fifty": 50.0,
    "sixty": 60.0, "seventy": 70.0, "eighty": 80.0, "ninety": 90.0, "half": 0.5,
    "once": 1.0, "twice": 2.0,
}  # fmt: skip

# Spelling: canonical unit and factor. A year is counted in months, a week in hours.
_SPELLINGS: dict[str, tuple[str, float]] = {}
for _unit, _factor, _names in (
    ("mg", 1e6, "kg kilogram kilograms kilo kilos"),
    ("mg", 1e3, "g gram grams gm"),
    ("mg", 1.0, "mg milligram milligrams"),
    ("mg", 1e-3, "mcg µg μg ug microgram micrograms"),
    ("mg/kg", 1.0, "mg/kg"),
    ("mg/kg", 1e-3, "mcg/kg µg/kg"),
    ("mg/dl", 1.0, "mg/dl"),
    ("mmol/l", 1.0, "mmol/l"),
    ("mmhg", 1.0, "mmhg"),
    ("ml", 1e3, "l liter liters litre litres"),
    ("ml", 1.0, "ml cc milliliter milliliters millilitre millilitres"),
    ("unit", 1.0, "unit units iu"),
    ("tablet", 1.0, "tablet tablets pill pills capsule capsules"),
    ("%", 1.0, "% percent"),
    ("hour", 1 / 3600, "second seconds sec"),
    ("hour", 1 / 60, "minute minutes min"),
    ("hour", 1.0, "hour hours hr hrs h"),
    ("hour", 24.0, "day days"),
    ("hour", 168.0, "week weeks"),
    ("month", 1.0, "month months"),
    ("month", 12.0, "year years"),
    ("cm", 1.0, "cm centimeter centimeters centimetre centimetres"),
    ("cm", 0.1, "mm millimeter millimeters millimetre millimetres"),
    ("kcal", 1.0, "kcal calories calorie"),
    ("degree", 1.0, "°c °f degrees degree"),
    ("dose", 1.0, "dose doses"),
):
    _SPELLINGS |= dict.fromkeys(_names.split(), (_unit, _factor))
DOSE_UNITS = frozenset({"mg", "mg/kg", "ml", "unit", "tablet"})

_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_NUMBER = rf"(?:{_DIGITS}|\b(?:{'|'.join(_WORDS)})\b)"
_UNIT = "|".join(re.escape(name) for name in sorted(_SPELLINGS, key=len, reverse=True))
_MEASURE = re.compile(
    rf"(?<![\w.])(?<![A-Za-z]-)(?P<number>{_NUMBER})"
    rf"(?:(?P<range>\s?[-\u2013/]\s?|\s(?:to|and|or)\s)(?P<last>{_NUMBER}))?"
    rf"(?:[\s-]?(?P<unit>{_UNIT})(?![\w/]))?(?!\w)",
    re.IGNORECASE,
)
_PERIOD = r"(?:(?:a|per|each|every)\s(?P<period>day|week|month|year)|(?P<adverb>daily|weekly))"
_TIMES = re.compile(
    rf"(?P<number>{_NUMBER})(?:\s(?:to|or)\s(?P<last>{_NUMBER}))?(?:\stimes)?\s{_PERIOD}\b", re.I
)
_EVERY = re.compile(rf"\bevery\s(?P<number>{_NUMBER})(?:\s(?:to|or)\s(?P<last>{_NUMBER}))?\s"
                    r"(?P<unit>hours?|hrs?|h)\b", re.I)  # fmt: skip
_RATIO = re.compile(
    rf"\b(?P<number>{_NUMBER})\s(?:\w+\s)?(?:in|out of)\s(?:every\s)?(?P<whole>{_DIGITS})"
    rf"(?![\w%])(?!\s(?:{_UNIT})\b)",
    re.IGNORECASE,
)
_LABEL = re.compile(rf"{LABEL}(?!\s?(?:%|(?:{_UNIT})\b))")
_PER_DAY = {"day": 1.0, "daily": 1.0, "week": 1 / 7, "weekly": 1 / 7, "month": 1 / 30,
            "year": 1 / 365}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit.

    Attributes:
        value: In the canonical unit.
        number: As it was written.
        unit: ``mg``, ``hour``, ``/day``, ``%``, ``ratio``, ...; empty for a bare number.
        text: As it was written.
        start: Where it begins in the text, in characters.
    """

    value: float
    number: float
    unit: str
    text: str
    start: int

    @property
    def is_dose(self) -> bool:
        """Whether the unit is one of doses."""
        return self.unit in DOSE_UNITS

    def given_by(self, other: Quantity) -> bool:
        """Whether ``other`` says the same: equal value and unit, or for a bare number its digits.

        A number with a unit is not given by a bare one.
        """
        if self.unit == other.unit:
            return math.isclose(self.value, other.value, rel_tol=1e-6)
        return not self.unit and self.number == other.number


def quantities(text: str) -> list[Quantity]:
    """Quantities of ``text`` in order; both ends of a range count.

    A number word up to twelve without a unit counts before a word of content only (``two
    puffs``, not ``the two are``); digits inside a word (``B12``, ``COVID-19``) and behind
    ``Candidate`` are a name.
    """
    found: list[Quantity] = []
    rest = _LABEL.sub(lambda match: " " * len(match.group()), text)
    for pattern, make in ((_TIMES, _times), (_EVERY, _every), (_RATIO, _ratio)):
        for match in pattern.finditer(rest):
            found += make(match)
            rest = rest[: match.start()] + " " * len(match.group()) + rest[match.end() :]
    for match in _MEASURE.finditer(rest):
        found += _measure(match)
    return sorted(found, key=lambda quantity: quantity.start)


def _value(text: str) -> float:
    lowered = text.lower()
    return _WORDS[lowered] if lowered in _WORDS else float(lowered.replace(",", ""))


def _values(match: re.Match[str]) -> list[float]:
    return [_value(match[name]) for name in ("number", "last") if match[name]]


def _times(match: re.Match[str]) -> list[Quantity]:
    rate = _PER_DAY[(match["period"] or match["adverb"]).lower()]
    return [Quantity(v * rate, v, "/day", match.group(), match.start()) for v in _values(match)]


def _every(match: re.Match[str]) -> list[Quantity]:
    values = [value for value in _values(match) if value > 0]
    return [Quantity(24 / v, v, "/day", match.group(), match.start()) for v in values]


def _ratio(match: re.Match[str]) -> list[Quantity]:
    whole = _value(match["whole"])
    number = _value(match["number"])
    value = number / whole if whole else 0.0
    return [Quantity(value, number, "ratio", match.group(), match.start())]


def _measure(match: re.Match[str]) -> list[Quantity]:
    if match["unit"] is None and not match["last"] and not _counts(match):
        return []
    unit, factor = _SPELLINGS[match["unit"].lower()] if match["unit"] else ("", 1.0)
    text = match.group().strip()
    return [Quantity(v * factor, v, unit, text, match.start()) for v in _values(match)]


def _counts(match: re.Match[str]) -> bool:
    """Whether a bare number counts something: digits do, ``two`` before a word of content."""
    word = match["number"].lower()
    if word not in _WORDS or _WORDS[word] > 12:
        return True
    following = words(match.string[match.end() :])[:1]
    return word not in _VAGUE and not STOP_WORDS.issuperset(following)


_VAGUE = frozenset({"one", "half", "once", "twice", "zero"})  # without a unit they count nothing
