"""The engine on SmolLM2-135M says and scores what transformers does, and the same to the bit in any company."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers

from steelyard.generate.engine import Engine
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.model.load import load
from steelyard.model.save import their_tensors

PROMPTS = [
    "The capital of France is",
    [{"role": "user", "content": "Name three colours, one a line."}],
    "def add(a, b):\n    return",
    "Ein Bäcker in Köln backt 🥨 und",
    "one two three four five six, one two three four five six, one two",
]
PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is ", "Paris"),
    ("The capital of France is   ", " Paris, of course."),
    ("Question: 2 + 2 =\nAnswer:", " 4"),
    ("Question: 2 + 2 =\nAnswer:\n", "4"),
    ("unbel", "ievable"),
    ("", "Once upon a time, there was a baker."),
    ("Ein Bäcker", " backt 🥨"),
]


@pytest.fixture(scope="module")
def real(smollm) -> SimpleNamespace:
    model = load(smollm)
    config = transformers.LlamaConfig(**{key: value for key, value in model.config.items() if key != "torch_dtype"})
    with torch.device("meta"):
        theirs = transformers.LlamaForCausalLM(config)
    theirs.load_state_dict(dict(their_tensors(model)), strict=False, assign=True)
    theirs.tie_weights()
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config)  # its frequencies are no part of a checkpoint
    return SimpleNamespace(model=model, theirs=theirs.eval())


@pytest.fixture(scope="module")
def engine(real):
    with Engine(real.model, dtype="float32", slots=4, context=256) as engine:
        yield engine


def test_greedy_answers_equal_transformers_generate(real, engine):
    done = engine.generate(PROMPTS, max_tokens=14)
    for prompt, ours in zip(PROMPTS, done, strict=True):
        ids = torch.tensor([engine.encode(prompt)])
        theirs = real.theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=14,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=list(real.model.tokenizer.eos_ids),
        )
        new = theirs[0, ids.shape[1] :].tolist()
        ended = new[-1] in real.model.tokenizer.eos_ids
        assert [token.id for token in ours.tokens] == (new[:-1] if ended else new)
        assert ours.finish_reason == ("stop" if ended else "length")
        assert ours.text == real.model.tokenizer.decode(new[:-1] if ended else new)


def test_scores_equal_transformers_under_lm_evals_convention(real, engine):
    tokenizer = real.model.tokenizer
    for score, (context, continuation) in zip(engine.score(PAIRS), PAIRS, strict=True):
        spaces = len(context) - len(context.rstrip())
        before = tokenizer.encode(context[: len(context) - spaces])
        whole = tokenizer.encode(context + continuation)
        if not before:  # lm-eval: the begin token stands for an empty context
            before, whole = [tokenizer.bos_id], [tokenizer.bos_id, *whole]
        with torch.inference_mode():
            logits = real.theirs(torch.tensor([whole])).logits[0].double()
        after = torch.tensor(whole[len(before) :])
        rows = torch.log_softmax(logits[len(before) - 1 : -1], -1)
        assert score.logprob == pytest.approx(float(rows.gather(1, after[:, None]).sum()), abs=2e-3)
        assert score.greedy == bool((rows.argmax(-1) == after).all())
        assert (score.tokens, score.bytes) == (len(after), len(continuation.encode()))
    assert engine.score([PAIRS[0]])[0].greedy


@pytest.mark.parametrize(("dtype", "kernels"), [("float32", "auto"), (None, "auto"), (None, "pytorch")])
def test_answers_and_scores_are_the_same_to_the_bit_in_any_company(real, dtype, kernels):
    """In float32 and in this machine's own type; prompt lookup included."""
    options = {"max_tokens": 6, "temperature": 0.8, "seed": 3, "ignore_eos": True}
    with Engine(real.model, dtype=dtype, kernels=kernels, deterministic=True, slots=3, context=256) as engine:
        alone = [engine.generate([prompt], **options)[0] for prompt in PROMPTS]
        together = engine.generate(PROMPTS[::-1], **options)[::-1]
        assert [(one.text, one.tokens) for one in together] == [(one.text, one.tokens) for one in alone]
        assert engine.score(PAIRS[:3]) == [engine.score([pair])[0] for pair in PAIRS[:3]]
        with Engine.from_spec(PromptLookup(shortest=1).decode(engine.spec)) as guessing:
            looked = guessing.generate(PROMPTS[::-1], **options)[::-1]
        assert [(one.text, one.tokens) for one in looked] == [(one.text, one.tokens) for one in alone]
        assert sum(one.usage.verified for one in looked) < sum(one.usage.verified for one in alone)
