"""Made-up answers and instructions on which checkers of instructions are compared: every kind, kept and broken, and odd forms of both."""

from __future__ import annotations

import json
import random
from typing import Any

WORDS = "the river runs IT'S I'm DON'T cannot CANNOT U.S. NASA Dr. Smith e.g. résumé l'eau wanna GONNA 3.5 1,000 A,B a:b x--y COVID-19 'tis -- … AT&T".split()
PIECES = (
    "My answer is yes.", "My answer is maybe. I think.", "* one\n* two\n- three", " - a\n** b\n*c*", "*hi* **there** ** ** *\n*", "<<A title>>", "<< >>",
    "P.S. more", "p.p.s. again", "P. S. x", "PS: no", "[name] and [address]", "[]", "[a\nb]", "Section 1\nx\nSection 2 y", "SECTION 3", "a *** b",
    "***", "a\n\nb", "\n\n\n", "******", "first ****** second", "same ****** same", '{"a": [1, 2]}', '```json\n{"a": 1}\n```', "```\n[]\n```", "{bad}",
    '"quoted"', '"', "Any other questions?", "Is there anything else I can help with?\"", "HELLO WORLD THIS IS ENGLISH", "hello world this is english",
    "Bonjour tout le monde, comment allez-vous?", "Dies ist ein deutscher Satz.", "Write a poem. The rest follows.", "'Quoted first' word", "12 345",
    "He said: \"NO!\" (LOUDLY). Why?! Because... I say so; OK, fine.", "I’m THE “BEST” — EVER", "“JUST” ‘SO’", "\ta\tb", "A.B.C. D", "i.e. this. That.",
)  # fmt: skip
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "keywords:existence": [{"keywords": ["river", "a"]}, {"keywords": ["the"]}, {"keywords": ["it's", "no"]}],
    "keywords:frequency": [
        {"keyword": "a", "frequency": 3, "relation": "at least"},
        {"keyword": "the", "frequency": 1, "relation": "less than"},
    ],
    "keywords:forbidden_words": [{"forbidden_words": ["river", "yes"]}, {"forbidden_words": ["a"]}, {"forbidden_words": ["e.g"]}],
    "keywords:letter_frequency": [
        {"letter": "e", "let_frequency": 4, "let_relation": "at least"},
        {"letter": "S", "let_frequency": 3, "let_relation": "less than"},
    ],
    "language:response_language": [{"language": "en"}, {"language": "fr"}, {"language": "de"}],
    "length_constraints:number_sentences": [{"num_sentences": n, "relation": r} for n in (1, 2, 4) for r in ("less than", "at least")],
    "length_constraints:number_paragraphs": [{"num_paragraphs": n} for n in (1, 2, 3)],
    "length_constraints:number_words": [{"num_words": n, "relation": r} for n in (3, 9) for r in ("less than", "at least")],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "my"},
        {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "A"},
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "b"},
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "quoted"},
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": n} for n in (1, 2)],
    "detectable_content:postscript": [{"postscript_marker": "P.S."}, {"postscript_marker": "P.P.S"}],
    "detectable_format:number_bullet_lists": [{"num_bullets": n} for n in (1, 2, 3)],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": n} for n in (1, 2, 3)],
    "detectable_format:multiple_sections": [{"section_spliter": s, "num_sections": n} for s in ("Section", "SECTION") for n in (1, 2)],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [{"prompt_to_repeat": "Write a poem."}, {"prompt_to_repeat": " my answer"}],
    "startend:end_checker": [{"end_phrase": "Any other questions?"}, {"end_phrase": "help with?"}, {"end_phrase": " B "}],
    "change_case:capital_word_frequency": [
        {"capital_frequency": n, "capital_relation": r} for n in (1, 2, 3, 5) for r in ("less than", "at least")
    ],
    "change_case:english_capital": [{}],
    "change_case:english_lowercase": [{}],
    "punctuation:no_comma": [{}],
    "startend:quotation": [{}],
}


def made_up(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` questions to a checker: an instruction's kind, its arguments and an answer; every kind in turn."""
    rng, out = random.Random(seed), []
    kinds = list(ARGUMENTS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        parts = []
        for _ in range(rng.randrange(1, 5)):
            if rng.random() < 0.65:
                parts.append(rng.choice(PIECES))
            else:
                parts.append(" ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 12))) + rng.choice(("", ".", "!", "?", "...", ",")))
        answer = rng.choice((" ", "\n", "\n\n", ". ", "")).join(parts)
        if rng.random() < 0.2:
            answer = rng.choice((answer.upper(), answer.lower(), f'"{answer}"', f"Sure!\n{answer}\nBye.", f"**{answer}**"))
        out.append({"kind": kind, "args": rng.choice(ARGUMENTS[kind]), "answer": answer})
    return out


if __name__ == "__main__":
    for one in made_up(5000):
        print(json.dumps(one))
