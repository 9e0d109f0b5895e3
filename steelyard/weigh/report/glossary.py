"""What a report's measures mean, in a sentence each, for a reader who has not read the documentation.

A metric is looked up by its name; where another stands before its ending (`right_in_the_middle`), by the two of them. Names that nobody
knows here (a task of your own) have no entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MEANINGS: dict[str, str] = {
    "right": "the answer is the expected one.",
    "finished": "the answer came to its end within the tokens that were allowed.",
    "number_given": "the answer holds a number at all.",
    "exact": "the whole answer is as expected; of a form, all fields are right, none missing or added.",
    "f1": "words that answer and expected text share: harmonic mean of precision and recall.",
    "fields": "share of a form's fields that are filled in rightly, in the first JSON object of the answer.",
    "fields_when_valid": "share of a form's fields that are filled in rightly, of valid answers alone.",
    "valid": "the answer is JSON of the wanted form and nothing else.",
    "parses": "the answer holds JSON that can be read.",
    "quotes": "the answer's words stand in the passage as they are.",
    "acc": "the right choice has the highest sum of log-probabilities.",
    "acc_norm": "the right choice has the highest log-probability per character.",
    "acc_bytes": "the right choice has the highest log-probability per byte.",
    "acc_tokens": "the right choice has the highest log-probability per token.",
    "cut": "the prompt lost its beginning, because it did not fit.",
    "right_logprob": "log-probability of the right choice among the choices; 0 is best.",
    "right_share": "probability of the right choices among all choices.",
    "said_logprob": "log-probability of the right answer by itself, in a sentence: how readily it is said. For the planted defect only.",
    "answer_logprob": "log-probability of the right answer among it and three wrong ones of its kind; 0 is best. It moves on every question, "
    "so it tells two arms apart with far fewer than right or wrong.",
    "kappa": "agreement with the truth beyond chance (Cohen); 0 is chance, 1 is full.",
    "bits_per_byte": "bits that the model needs for a byte of given text.",
    "far_bits_per_byte": "bits that the model needs for a byte of a text's second half, after its first.",
    "repeated_bits_per_byte": "bits that the model needs for a byte of a text that stands before it already.",
    "bits_per_character": "bits that the model needs for a character of what is to be found.",
    "word_log_perplexity": "nats that the model needs for a word of given text; the perplexity is e to its power.",
    "byte_log_perplexity": "nats that the model needs for a byte of given text.",
    "token_log_perplexity": "nats that the model needs for a token of given text; tokenizers cut otherwise.",
    "own_answer": "how many more bits a byte other questions' answers take than a question's own.",
    "preferred": "the answer that people preferred has the higher log-probability per token; a half is chance.",
    "preferred_sum": "the answer that people preferred has the higher sum of log-probabilities, which favours what is short.",
    "margin": "by how many nats a token the preferred answer is the likelier.",
    "preferred_by_judge": "a judge takes the arm's answer over the base's; a half is no preference.",
    "preferred_by_people": "people take the arm's answer over the base's; a half is no preference.",
    "prompt_strict": "all instructions of a prompt are followed.",
    "prompt_loose": "all instructions of a prompt are followed, a frame around the answer being forgiven.",
    "instruction_strict": "share of instructions that are followed.",
    "instruction_loose": "share of instructions that are followed, a frame around the answer being forgiven.",
    "right_longer": "right at lengths beyond those that were trained.",
    "old_word": "the answer gives what was told first and then corrected.",
    "as_told": "a fact is known in the order in which it was learned.",
    "reversed": "a fact is known the other way round than it was learned.",
    "told_both_ways": "a fact that was learned in both orders is known: the control.",
    "function": "the functions called are the right ones, whatever their arguments.",
    "declined": "no function is called, where none answers.",
    "called": "the answer calls a function at all.",
    "harmless_done": "a harmless request was done.",
    "remedy": "the answer to a complaint offers a remedy.",
    "names_job": "the advertisement names the job.",
    "intact_likelier": "a sentence is likelier than its own words in another order.",
    "acc_told": "right where the text tells the answer.",
    "acc_untold": "right (unknown) where the text does not tell the answer.",
    "right_at_equal_coverage": "share right among the surest answers, as many of each side as the more silent one gives: silence wins nothing.",
    "truthful": "+1 for a right answer, -1 for a wrong or invented one, 0 for silence.",
    "hallucinated": "answered, and wrong; of all questions.",
    "invented": "answered, of the questions about what does not exist.",
    "abstained": "said not to know, of the questions that have an answer.",
    "right_when_answered": "share right of those that got an answer.",
    "answered": "got an answer, of all questions.",
    "brier": "(stated probability of being right - outcome) squared, summed over choices where there are any; 0 is best.",
    "log_loss": "-log of the probability given to what turned out true; 0 is best.",
    "auroc": "probability that a right answer was surer than a wrong one; 50% is chance.",
    "aurc": "share wrong among the surest answers, averaged over how many are given.",
    "ece": "expected calibration error: how far stated probability and share right lie apart, in 15 groups of equal size.",
    "agreement": "two answers to one question under other seeds agree in outcome (or in text, where there is no right and wrong).",
    "distinct_2": "share of different word pairs among all word pairs of a question's answers.",
    "bits_to_english": "bits of a passage in the other languages, over those of the same passages in English. Tokens: likewise.",
    "bytes_per_token": "bytes of text that a token stands for.",
    "bias_told": "-1 to 1: how far answers that name somebody follow the stereotype, where the text tells who it was; 0 is no bias.",
    "bias_untold": "-1 to 1: how far answers follow the stereotype where the text does not tell, times the share wrong; 0 is no bias.",
    "stereotyped": "the more stereotyped sentence of a pair is the likelier; a half is no preference.",
    "apart": "how far the log-probabilities of a pair's two sentences lie apart.",
    "gender_gap": "how much a pronoun's gender changes a sentence's log-probability.",
    "male_likelier": "the sentence with the male pronoun is the likelier; a half is no preference.",
    "gendered": "the advertisement has words that are read as of one gender.",
    "attack_success": "attacks that got the secret, corrected for the detector's known errors.",
    "over_refusal": "harmless requests that were refused, corrected for the detector's known errors.",
    "said_secret": "attacks whose answer holds the secret, as the detector found them.",
    "refused": "harmless requests that the detector found refused.",
    "tokens_per_second": "tokens written in a second after the first, one answer at a time.",
    "first_token_p50": "time to the first token, of half the answers (p95: of 95%) no longer than this.",
    "token_p50": "time between two tokens, of half of them (p95: of 95%) no longer than this.",
    "peak_memory": "most memory of a process that only answers, and of its accelerator.",
    "weights": "bytes of the weights as kept in memory.",
    "joules_per_token": "energy for a token written, idling left out where it was measured.",
    "watt_hours_per_request": "energy for an answer of up to 40 tokens.",
    "watt_hours_of_training": "energy of making the arm's model, each training run.",
    "per_million_tokens": "price of a million tokens written, by a dated price table.",
    "price_of_training": "rent of the machine while the arm's model was made, each training run, by a dated price table.",
    "requests": "requests to the model behind an answer.",
    "tokens_read": "tokens read for an answer.",
    "tokens_written": "tokens written for an answer.",
}
"""Metric -> what it is."""

_ENDINGS: tuple[tuple[str, str, str], ...] = (
    (r"flipped_under_placebo", "... flipped under placebo", "share of answers whose outcome white space at the end turns over."),
    (r"drop_under_\w+", "... drop under ...", "by how much one perturbation lowers the measure; the placebo is white space at the end."),
    (r"under_\w+", "... under ...", "the measure under one perturbation of the questions."),
    (r"unperturbed", "... unperturbed", "the measure on the same questions as they were."),
    (r"perturbed", "... perturbed", "the measure on questions in other case, punctuation and words, with typos, words exchanged."),
    (r"worst_case", "... worst case", "mean over questions of the worst outcome under any wording."),
    (r"drop", "... drop", "by how much the perturbations lower the measure, on average."),
    (r"flipped", "... flipped", "share of perturbed answers whose outcome is another than as asked."),
    (r"in_the_middle", "... in the middle", "the measure where what is asked for stands neither first nor last in the text."),
    (r"edges_less_middle", "... edges less middle", "first and last place less those between."),
    (r"at_depth_[\d.-]+", "... at depth ...", "the measure by where in the text the answer stands: 0 its beginning, 1 its end."),
    (r"at_length_[\d.]+", "... at length ...", "the measure by how long the text is."),
    (r"in_other_languages", "... in other languages", "the measure in all languages but English."),
    (r"english_less_others", "... English less others", "the measure in English less that in the other languages."),
)
_WHOLE: tuple[tuple[str, str, str], ...] = (
    (r"(bits|tokens)_in_\w+", "bits in, tokens in ...", "bits, tokens that a passage takes in a language; passages say the same in all."),
    (r"\w+_gap", "... gap", "difference of two groups' means, of requests that differ in a name or an age alone; 0 is none."),
)
_SAME = {"tokens_to_english": "bits_to_english", "first_token_p95": "first_token_p50", "token_p95": "token_p50"}


def glossary(metrics: Iterable[str]) -> list[tuple[str, str]]:
    """(measure as the page names it, what it is) of these metrics, in their order, each once; those not known are left out."""
    found: dict[str, str] = {}
    for metric in metrics:
        for name, meaning in entries(metric):
            found.setdefault(name, meaning)
    return list(found.items())


def entries(metric: str) -> list[tuple[str, str]]:
    """What one metric's name is made of: a known one, or a known one with an ending; [] where it is neither."""
    metric = _SAME.get(metric, metric)
    if metric in MEANINGS:
        return [(metric.replace("_", " "), MEANINGS[metric])]
    for pattern, name, meaning in _WHOLE:
        if re.fullmatch(pattern, metric):
            return [(name, meaning)]
    for pattern, name, meaning in (*_ENDINGS, (r"in_[a-z]{2,3}(-\w+)?", "... in de, en, ...", "the measure in one language.")):
        if (split := re.fullmatch(rf"(\w+?)_{pattern}", metric)) and split[1] in MEANINGS:
            return [*entries(split[1]), (name, meaning)]
    return []
