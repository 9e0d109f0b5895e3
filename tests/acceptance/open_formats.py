"""A model saved here is opened by transformers and computes the same; one with a row changed is found out."""

from __future__ import annotations

import torch

from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding
from steelyard.data import encyclopedia
from steelyard.model.load import load
from steelyard.weigh.report.report import Cell

ALLOWED = 1e-4


def run(bench: Bench) -> Finding:
    import transformers

    model = load(MODEL)
    texts = [article.extract for article in list(encyclopedia.read().values())[:: bench.pick(500, 4000)]]
    batches = [model.tokenizer.encode(text)[:128] for text in texts]  # type: ignore[union-attr]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model.save(bench.directory / "saved"), dtype=torch.float32).eval()
    pages = transformers.AutoTokenizer.from_pretrained(bench.directory / "saved")
    turns = [{"role": "user", "content": texts[0]}]
    same_words = all(pages.encode(text)[:128] == ids for text, ids in zip(texts, batches, strict=True))
    same_turns = pages.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == model.render(turns)
    right = largest(model, theirs, batches)
    with torch.no_grad():
        theirs.model.layers[-1].mlp.down_proj.weight[0] *= -1
    spoiled = largest(model, theirs, batches[:1])
    tokens = sum(map(len, batches))
    return Finding(
        [
            Claim("transformers computes the same logits from the saved directory", difference("saved", right, tokens), ("equivalent",)),
            Claim("and reads the same tokens and turns", agreement(same_words and same_turns, len(texts)), ("identical",)),
            Claim("one negated row of one matrix is found out", difference("spoiled", spoiled, len(batches[0])), ("worse",), control=True),
        ]
    )


def largest(model, theirs, batches: list[list[int]]) -> float:
    """The largest difference between any two logits."""
    with torch.inference_mode():
        return max(float((model.logits([ids]) - theirs(torch.tensor([ids])).logits).abs().max()) for ids in batches)


def difference(arm: str, found: float, tokens: int) -> Cell:
    """The largest difference beside the allowed one: a maximum, so there is no interval."""
    return Cell(
        arm, "encyclopedia", "quality", "largest difference", "logits", False, ALLOWED, None, found, None, found - ALLOWED, None, None,
        tokens, False, "equivalent" if found < ALLOWED else "worse", note="the base's figure is the allowed difference; n counts tokens",
    )  # fmt: skip


def agreement(same: bool, texts: int) -> Cell:
    return Cell(
        "saved", "encyclopedia", "quality", "same tokens", "share", True, 1.0, None, float(same), None, float(same) - 1, None, None, texts,
        False, "identical" if same else "worse",
    )  # fmt: skip


EXPERIMENT = Experiment(
    "open_formats",
    "",
    "The directory this saves opens in transformers: the same logits to 1e-4 in float32, the same tokens, the same chat template.",
    "A single negated row in the copy must show.",
    "real model",
    run,
    needs=("smollm", "encyclopedia"),
)
