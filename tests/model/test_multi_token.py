"""Heads for several next tokens: what they learn from, that they change nothing else, and that their guesses are verified exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from new_parts import SMALL, VOCABULARY, ids

from steelyard.core.errors import SteelyardError
from steelyard.core.run import Run
from steelyard.data.batching import NOT_LEARNED, Batch
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.further_heads import FurtherHeadsLever
from steelyard.model.cost import flops
from steelyard.model.heads.lm import LMHeadPlan
from steelyard.model.heads.multi_token import MultiTokenHead
from steelyard.model.new import DecoderPlan, initialize
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk
from steelyard.train import objectives
from steelyard.train.objectives import next_token_loss
from steelyard.train.pretrain.new import new_model


def made(tokens: int, seed: int = 0) -> Trunk:
    plan = DecoderPlan.model_validate(SMALL | {"initial": 0.2, "head": {"multi_token": {"tokens": tokens}}})
    return initialize(plan.trunk(VOCABULARY).build(), plan, seed)


def batch_of(text: torch.Tensor, segments: torch.Tensor | None = None, targets: np.ndarray | None = None) -> Batch:
    told = text[:, 1:].numpy().copy() if targets is None else targets
    return Batch(text[:, :-1].numpy(), told, None if segments is None else segments.numpy(), ("", ""), told.size)


def test_the_loss_is_the_sum_of_the_heads_mean_losses():
    trunk, text = made(3).train(), ids(2, 13)
    head, step = trunk.heads["lm"], Step.whole(2, 12, torch.device("cpu"))
    assert isinstance(head, MultiTokenHead)
    hidden = trunk(text[:, :-1], step)
    wanted = [F.cross_entropy(head.ahead(hidden[:, : 13 - j], j).flatten(0, 1), text[:, j:].flatten()) for j in (1, 2, 3)]
    total, count, parts = next_token_loss(trunk)(batch_of(text))  # type: ignore[misc]
    assert count == 24 and torch.allclose(total / count, sum(wanted), rtol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(parts["token_3"] / count, wanted[2])
    plain, _, none = next_token_loss(trunk.eval())(batch_of(text))  # type: ignore[misc]
    assert not none and torch.allclose(plain / count, wanted[0])


def test_one_token_is_the_causal_loss():
    assert type(made(1).plan.heads["lm"]) is LMHeadPlan
    several, one, text = made(4), made(1), ids(2, 9)
    one.load_state_dict({name: value for name, value in several.state_dict().items() if "further" not in name})
    assert torch.equal(several.eval().logits(text), one.eval().logits(text))
    assert flops(several, 8) > flops(one, 8)


def test_nothing_is_learned_across_documents_or_of_what_is_not_asked():
    head, hidden = made(3).heads["lm"], torch.randn(1, 6, 32)
    assert isinstance(head, MultiTokenHead)
    targets = torch.tensor([[5, 6, NOT_LEARNED, 8, 9, NOT_LEARNED]])
    told = {name: wanted.tolist() for name, _, wanted in head.lessons(hidden, targets, None)}
    assert told == {"token_2": [6, 9], "token_3": [8]}
    told = {name: wanted.tolist() for name, _, wanted in head.lessons(hidden, targets, torch.tensor([[0, 1, 1, 1, 1, 1]]))}
    assert told == {"token_2": [9], "token_3": [8]}  # 6 stands in another document than the token before it
    assert not head.lessons(hidden[:, :1], targets[:, :1], None)


def test_lines_without_anything_to_learn_still_give_every_head_a_gradient():
    """A process that gets such a line sends its share of every gradient, for the others wait for it."""
    trunk, text = made(3).train().requires_grad_(True), ids(1, 9)
    total, learned, parts = next_token_loss(trunk)(batch_of(text, targets=np.full((1, 8), NOT_LEARNED)))
    total.backward()
    assert (total.item(), learned) == (0, 0) and set(parts) == {"token_2", "token_3"}
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in trunk.parameters())


def test_gradients_in_pieces_are_those_of_the_whole(monkeypatch):
    trunk, text = made(3).double().train(), ids(3, 21)
    found = []
    for piece in (10_000, 7):
        monkeypatch.setattr(objectives, "PIECE", piece)
        total = next_token_loss(trunk, z_loss=0.1)(batch_of(text))[0]
        found.append([total, *torch.autograd.grad(total, list(trunk.parameters()))])
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-5) for one, other in zip(*found, strict=True))


PROMPTS = [[7 * k % 250 + 1 for k in range(length)] for length in (3, 40, 17, 1)]


@pytest.mark.parametrize("mixer", ["attention", ["attention", "linear_attention"]])
def test_guesses_of_the_heads_leave_the_text_as_it_is(mixer, tmp_path: Path):
    plan = DecoderPlan.model_validate(SMALL | {"initial": 0.2, "mixer": mixer, "head": {"multi_token": {"tokens": 3}}})
    model = new_model(plan, Run(tmp_path))
    said = []
    for lever in (None, FurtherHeadsLever(verify="coupled"), FurtherHeadsLever(verify="coupled", tokens=2)):  # type: ignore[call-arg]
        for temperature in (0.0, 1.0):
            spec = EngineSpec(model, deterministic=True, slots=3, dtype="float32")
            with Engine.from_spec(lever.decode(spec) if lever else spec) as engine:
                answers = engine.generate(PROMPTS, max_tokens=20, temperature=temperature, seed=3, logprobs=True, ignore_eos=True)
            # A recurrence that reads several tokens at once rounds otherwise than one that reads them one by one.
            said.append([(answer.text, answer.logprobs if mixer == "attention" else None) for answer in answers])
    assert said[0::2] == [said[0]] * 3 and said[1::2] == [said[1]] * 3


def test_guesses_do_not_depend_on_company(tmp_path: Path):
    plan = DecoderPlan.model_validate(SMALL | {"initial": 0.2, "head": {"multi_token": {"tokens": 4}}})
    model, said = new_model(plan, Run(tmp_path)), []
    for slots in (1, 4):
        spec = FurtherHeadsLever().decode(EngineSpec(model, deterministic=True, slots=slots, dtype="float32"))  # type: ignore[call-arg]
        with Engine.from_spec(spec) as engine:
            answers = engine.generate(PROMPTS, max_tokens=20, temperature=1.0, seed=5, logprobs=True, ignore_eos=True)
        said.append([(answer.text, answer.logprobs) for answer in answers])
    assert said[0] == said[1]


def test_models_without_such_heads_are_refused(tmp_path: Path):
    plain = new_model(DecoderPlan.model_validate(SMALL), Run(tmp_path))
    with pytest.raises(SteelyardError, match="predicts 1 at a place"):
        FurtherHeadsLever().decode(EngineSpec(plain))  # type: ignore[call-arg]
    assert FurtherHeadsLever(tokens=0).decode(EngineSpec(plain)).speculation is None  # type: ignore[call-arg]
    two = new_model(DecoderPlan.model_validate(SMALL | {"head": {"multi_token": {"tokens": 2}}}), Run(tmp_path))
    with pytest.raises(SteelyardError, match="guesses of 5 tokens"):
        FurtherHeadsLever(tokens=5).decode(EngineSpec(two))  # type: ignore[call-arg]
