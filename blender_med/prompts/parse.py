"""Find the choice in a model's free answer to a multiple-choice question.

A text that names no option, or more than one, gives None: unparsed answers are counted and
shown, never guessed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from string import ascii_uppercase

# Part of the identity of generated choices: raise it when an answer may be read otherwise.
PARSER = 2
_LONGEST = 20_000  # characters of an answer that are read; models loop
_MARKS = "*_`#~\"'\u201c\u201d\u2018\u2019"
_JSON = re.compile(
    r"[\"']?answer(?:_?choice|_?letter|_?option)?[\"']?\s*:\s*[\"']\s*\(?(?P<value>[^\"'{}\n]{1,300}?)\)?[\"']",
    re.IGNORECASE,
)
_SURELY = r"(?:(?:therefore|thus|probably|definitely|clearly|(?:most\s+)?likely)\s+)?"
_STATED = re.compile(
    r"\b(?:answer|choice|option)s?"
    r"(?:\s+(?:to|for)\s+(?:the|this)\s+question)?(?:\s+given\s+the\s+context)?"
    r"\s*(?:\b(?:is|are|would\s+be|should\s+be|must\s+be|choice|option|letter)\b|[:=\-])"
    rf"[\s:]*{_SURELY}(?:option\s+|choice\s+|letter\s+)?[(\[]?"
    r"(?P<value>[A-Za-z]+)\b(?P<after>[)\].:,;]?)",
    re.IGNORECASE,
)
_LEADING = re.compile(
    r"^\s*(?:option\s+|choice\s+)?[(\[]?(?P<value>[A-Za-z])(?:[)\].:,;]|\s*$|\s*\n)"
)
_OPTION_WORD = re.compile(r"\b(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s+[(\[]?(?P<value>[A-Z])\b")
# "Ans. (b)", "Answer B": the letter must end the clause, or "Answer A patient ..." would be one.
_SHORT = re.compile(
    r"\b(?:ans\b[.:\-\s]*|answer\s+)[(\[]?(?P<value>[A-Za-z])[)\]]?(?=\s*(?:[.:,;\n]|$))",
    re.IGNORECASE,
)
# The letter stands at the start of a clause, or "hepatitis B is the right diagnosis" would be one.
_CLAUSE = r"(?:^|[.!?:,;\n]\s*|\b(?:so|thus|therefore|hence|and|but|that|only|option|choice)\s+)"
_JUDGED = re.compile(
    rf"{_CLAUSE}[(\[]?(?P<value>(?-i:[A-Z]))[)\]]?"
    r"\s+(?:is|would\s+be|must\s+be|seems|appears\s+to\s+be)\s+(?:the\s+)?"
    r"(?:(?:(?:most|single|only|clearly|therefore)\s+)?(?:correct|right|true|best|appropriate|answer)"
    r"|most\s+likely)\b",
    re.IGNORECASE,
)
_PICKED = re.compile(
    r"\b(?:[Ii]ts|[Ii]t\s+is|choose|chose|pick|select|leaving|leaves|go\s+(?:with|for))\s+"
    r"[(\[]?(?P<value>[A-Z])[)\]]?(?=\s*(?:[.,;:!\n]|$|because\b|since\b))"
)
_LINE = re.compile(
    r"^[ \t]*[(\[]?(?P<value>[A-Z])(?:[)\].:][ \t]*(?P<text>\S)?|[ \t]*$)", re.MULTILINE
)
_NEGATED = re.compile(
    r"\b(?:not|never|rather than|other than|instead of|except|nor)(?: (?:a|an|the))?$"
)
_REFUSED = re.compile(
    r"(?:is|are|was|were|would be) (?:not|incorrect|wrong|false|unlikely|excluded)\b"
)
_ALSO = re.compile(r"[)\].]?\s*(?:\b(?:or|and)\b|[/,&])\s*[(\[]?(?P<value>[A-Z])\b(?!')")
_WORD_LABELS = {"yes", "no", "maybe"}
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?([^{}\n]{1,300})\}+")
_BRACKETED = re.compile(r"(?<!\w)[(\[](?P<value>[A-Z])[)\]]")


def parse_choice(text: str, options: Sequence[str]) -> int | None:
    """0-based index of the option that ``text`` chooses, or None.

    Rules, the first that names exactly one option wins: a JSON field ``answer_choice``; a
    stated answer ("the answer is B"); a letter that opens the text; a letter that is judged right
    ("B is the best answer") or picked ("I choose B"); "option B"; one bracketed letter; the text
    of exactly one option. Words that are options themselves (yes, no, maybe) must stand as a
    clause of their own, as "no" is part of much other prose. A rule that names two different
    options ends the search with None, except that the last of several stated answers counts when
    the text corrects itself with "final answer".

    Args:
        text: The model's answer; any text.
        options: The options in order, [n]; an empty sequence gives None.
    """
    answer = _plain(text)
    if not answer or not options:
        return None
    for rule in (_json, _stated, _leading, _judged, _option_word, _bracketed, _option_text):
        found = rule(answer, options)
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def parse_choice_mirage(text: str, options: Sequence[str]) -> int:
    """As MIRAGE's parser: option 0 ("A") where nothing matches.

    Only for comparison with numbers published under that protocol; the unparsed share must be
    reported beside it (count where ``parse_choice`` gives None). Follows ``locate_answer`` of
    the MIRAGE toolkit: the first rule that matches wins.
    """
    answer = text[:_LONGEST].split('"answer_choice": "')[-1].strip()
    for pattern in _MIRAGE:
        for letter in pattern.findall(answer):
            index = ascii_uppercase.find(letter[:1].upper())
            if 0 <= index < len(options):
                return index
    return 0


# src/utils.py of Teddy-XiongGZ/MIRAGE, in its order.
_MIRAGE = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"^\s*(A|B|C|D)$", 0),
        (r"^\s*(A|B|C|D) or", 0),
        (r"^\s*(A|B|C|D) and", 0),
        (r"^\s*(A|B|C|D)/", 0),
        (r"^\s*(A|B|C|D),", 0),
        (r"[Oo]ption (A|B|C|D)", 0),
        (r":\s*(A|B|C|D)", 0),
        (r"^\s*(A|B|C|D)\.", 0),
        (r"^\s*(A|B|C|D)\"", 0),
        (r"^\s*(A|B|C|D):", 0),
    )
)


def _plain(text: str) -> str:
    normal = unicodedata.normalize("NFKC", text[:_LONGEST])
    return _BOXED.sub(r"(\1)", normal).strip()


def _unmarked(text: str) -> str:
    return text.translate({ord(mark): None for mark in _MARKS})


def _json(text: str, options: Sequence[str]) -> set[int]:
    return _indices((m["value"] for m in _JSON.finditer(text)), options)


def _stated(text: str, options: Sequence[str]) -> set[int]:
    plain = _unmarked(text)
    matches = [m for m in _STATED.finditer(plain) if not _is_article(m, plain)]
    final = [m for m in matches if re.search(r"final\s*$", plain[: m.start()], re.IGNORECASE)]
    return _all_named(final[-1:] or matches, plain, options)


def _is_article(match: re.Match[str], text: str) -> bool:
    """Whether the "letter" is the article of "the answer is a virus" (or the pronoun I)."""
    if match["after"] or match["value"] not in ("a", "A", "I"):
        return False
    rest = text[match.end() : match.end() + 40]
    return bool(re.match(r"[ \t]+[a-z]", rest)) and not re.match(
        r"\s+(?:because|since|as|and|or)\b", rest
    )


def _all_named(matches: Sequence[re.Match[str]], text: str, options: Sequence[str]) -> set[int]:
    """Options of the matches and of the letters joined to them, as in "B or C"."""
    values = []
    for match in matches:
        values.append(match["value"])
        end = match.end("value")
        while also := _ALSO.match(text, end):
            values.append(also["value"])
            end = also.end("value")
    return _indices(values, options)


def _leading(text: str, options: Sequence[str]) -> set[int]:
    plain = _unmarked(text)
    match = _LEADING.match(plain)
    if match is None:
        return set()
    # A model that repeats the whole list of options, or all their letters, has chosen none.
    lines = list(_LINE.finditer(plain))
    if lines and lines[0].start("value") == match.start("value"):
        alone = lines[0]["text"] is None
        listed = _indices((m["value"] for m in lines if (m["text"] is None) == alone), options)
        if len(listed) > 1:
            return listed
    return _all_named([match], plain, options)


def _judged(text: str, options: Sequence[str]) -> set[int]:
    plain = _unmarked(text)
    matches = [m for rule in (_SHORT, _JUDGED, _PICKED) for m in rule.finditer(plain)]
    return _all_named(matches, plain, options)


def _option_word(text: str, options: Sequence[str]) -> set[int]:
    plain = _unmarked(text)
    return _all_named(list(_OPTION_WORD.finditer(plain)), plain, options)


def _bracketed(text: str, options: Sequence[str]) -> set[int]:
    return _indices((m["value"] for m in _BRACKETED.finditer(_unmarked(text))), options)


def _option_text(text: str, options: Sequence[str]) -> set[int]:
    answer = _words(text)
    normal = [_words(option) for option in options]
    exact = {i for i, option in enumerate(normal) if option and option == answer}
    if exact:
        return exact
    if set(normal) <= _WORD_LABELS:
        return _word_label(text, normal)
    found = {i for i, option in enumerate(normal) if option and _affirmed(option, answer)}
    # "lung cancer" inside "small cell lung cancer": the longer option is the one named.
    return {i for i in found if not any(_within(normal[i], normal[j]) for j in found if j != i)}


def _word_label(text: str, labels: Sequence[str]) -> set[int]:
    """Labels that open the text, with one joined as in "yes or no", or are clauses of their own."""
    first, second, third = (*_words(text).split(), "", "", "")[:3]
    joined = {second, third} if second in ("and", "or", *labels) else set()
    clauses = {_words(clause) for clause in re.split(r"[.,;:!?\n]", text)}
    named = clauses | {first} | (joined if first in labels else set())
    return {i for i, label in enumerate(labels) if label in named}


def _affirmed(option: str, answer: str) -> bool:
    """Whether ``answer`` names ``option`` anywhere without refusing it."""
    for match in re.finditer(rf"(?<!\w){re.escape(option)}(?!\w)", answer):
        before, after = answer[: match.start()].rstrip(), answer[match.end() :].lstrip()
        if not _NEGATED.search(before[-40:]) and not _REFUSED.match(after[:40]):
            return True
    return False


def _within(inner: str, outer: str) -> bool:
    return inner != outer and f" {inner} " in f" {outer} "


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _indices(values: Iterable[str], options: Sequence[str]) -> set[int]:
    found = (_index(value, options) for value in values)
    return {index for index in found if index is not None}


def _index(value: str, options: Sequence[str]) -> int | None:
    """Index of a letter (with or without its text, as "B. text") or of an option's own words."""
    letter = re.match(r"^\s*[(\[]?([A-Za-z])(?:[)\].:]|\s*$)", value)
    if letter:
        index = ascii_uppercase.find(letter[1].upper())
        return index if 0 <= index < len(options) else None
    words = _words(value)
    same = [i for i, option in enumerate(options) if words and _words(option) == words]
    return same[0] if len(same) == 1 else None
