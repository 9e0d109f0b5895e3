"""Bytes in patches: what is computed, what may be known, what it costs, and what is said of it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from new_parts import SMALL, VOCABULARY, decoder, ids
from pydantic import ValidationError
from torch import Tensor

from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.core.run import Run
from steelyard.model.cost import flops
from steelyard.model.inputs import patches
from steelyard.model.inputs.byte_pairs import hardest, mean_length, next_entropies
from steelyard.model.inputs.patches import Cut, PatchedPlan
from steelyard.model.load import load
from steelyard.model.new import DecoderPlan
from steelyard.model.sites import Add, SiteProgram
from steelyard.model.state import Dense
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk
from steelyard.train.pretrain.new import new_model

SIZE = 4
PATCHES = {"inputs": {"patches": {"size": SIZE}}}


def by_equation(trunk: Trunk, text: list[int]) -> Tensor:
    """Logits of each byte, one text and one byte at a time, from the docstring's equation."""
    depth, plan = trunk.blocks, trunk.plan.depth
    table = trunk.inputs.norm(trunk.inputs.weight)
    out, patches, since = [], [], []
    opening, said = depth.start, torch.zeros(plan.size, table.shape[1])
    for byte in text:
        since.append(byte)
        if len(since) == plan.size or byte in plan.ends:
            vector = torch.cat((torch.zeros((plan.size - len(since)) * table.shape[1]), table[since].flatten()))
            patches.append(vector @ depth.into.weight.T)
            over = depth.over(torch.stack(patches)[None], Step.whole(1, len(patches), torch.device("cpu")), None)
            opening, said, since = table[byte], (depth.norm(over) @ depth.out.weight.T)[0, -1].view(plan.size, -1), []
        heard = torch.stack([opening, *table[since]]) + said[: len(since) + 1] + depth.places[: len(since) + 1]
        h = depth.inside(heard[None], Step.whole(1, len(heard), torch.device("cpu")), None)[0, -1]
        out.append(trunk.norm(h) @ trunk.inputs.weight.T)
    return torch.stack(out)


@pytest.mark.parametrize("name", ["patches", "patches of five, recurrent", "entropy patches"])
def test_every_byte_follows_from_the_patches_before_and_the_bytes_since(name):
    trunk, text = decoder(name), ids(1, 31).flatten().tolist()
    with torch.inference_mode():
        assert (trunk.logits(torch.tensor([text]))[0] - by_equation(trunk, text)).abs().max() < 1e-4


def leaking(step: Step, size: int, *_: object) -> Cut:
    """A planted mistake: a patch is heard from its first byte on, which predicts the second."""
    honest = CUT(step, size)
    ends = torch.zeros_like(honest.ends)
    ends[:, : -size + 1] = honest.ends[:, size - 1 :]
    opens = ends | (torch.arange(step.time) == 0)
    place = torch.where(opens, 0, (torch.arange(step.time) % size)[None])
    return Cut(ends, opens, honest.fresh, honest.since, place, opens.cumsum(1) - 1, ends.cumsum(1))


CUT = patches.cut


def knowing_later(trunk: Trunk) -> int:
    """Positions whose logits change with the byte after them."""
    text, known = ids(1, 24, 3), 0
    with torch.inference_mode():
        before = trunk.logits(text)[0]
        for t in range(1, 24):
            changed = text.clone()
            changed[0, t] = (changed[0, t] + 1) % VOCABULARY
            known += int((trunk.logits(changed)[0, t - 1] - before[t - 1]).abs().max() > 1e-5)
    return known


def test_no_byte_is_known_before_it_is_read_and_a_leak_through_the_patch_would_be_seen(monkeypatch):
    assert knowing_later(decoder("patches")) == knowing_later(decoder("entropy patches")) == 0
    forward = patches.Patched._over

    def peeking(self, both_bsd, where, step, pool):
        rows, times = where.ends.nonzero(as_tuple=True)  # the patch that begins here, not the one that ends
        late = torch.cat((both_bsd[:, SIZE - 1 :], both_bsd.new_zeros(len(both_bsd), SIZE - 1, both_bsd.shape[2])), 1)
        return forward(self, late, where, step, pool)

    monkeypatch.setattr(patches, "cut", leaking)
    monkeypatch.setattr(patches.Patched, "_over", peeking)
    assert knowing_later(decoder("patches")) > 6


def test_blocks_run_once_a_patch_and_their_memory_holds_patches():
    plain, patched = decoder("attention", context=512), decoder("patches", context=512)
    inside = flops(patched.blocks.inside, SIZE) // SIZE
    assert flops(patched.blocks, 512) - 512 * inside < 0.35 * flops(plain.blocks, 512)
    small = patched.new_state(1, 512, Dense()).pools["patches"].over.bytes()
    assert small < 0.26 * plain.new_state(1, 512, Dense()).bytes()


def test_operations_are_those_of_all_products(monkeypatch):
    trunk, done = decoder("patches"), []
    product = torch.nn.functional.linear

    def counting(x, weight, bias=None):
        done.append(2 * x.numel() * len(weight))
        return product(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", counting)
    time = 64
    trunk.logits(ids(1, time))
    # One group more than patches: the bytes after the last patch have none yet to end.
    extra = flops(trunk.blocks.inside, SIZE)
    mixing = sum(module.mixing_flops(time // SIZE) for module in trunk.blocks.over.modules() if hasattr(module, "mixing_flops"))
    mixing += sum(module.mixing_flops(SIZE) for module in trunk.blocks.inside.modules() if hasattr(module, "mixing_flops")) * time // SIZE
    assert abs(sum(done) - (flops(trunk, time) - mixing)) <= extra


def test_a_patch_longer_than_the_context_is_refused_when_read():
    with pytest.raises(RecipeError, match="longer than the context"):
        DecoderPlan.model_validate(SMALL | {"inputs": {"patches": {"size": 97}}}).check()


def test_entropies_of_the_next_byte_are_those_of_the_counted_pairs():
    text = np.frombuffer(b"abacabad" * 10 + b"a", dtype=np.uint8)
    entropies = next_entropies(text)
    # After a come b, c and d in shares of 1/2, 1/4 and 1/4; after the others comes a.
    assert entropies[ord("a")] == pytest.approx(1.5)
    assert entropies[[ord("b"), ord("c"), ord("d"), ord("z")]].tolist() == [0, 0, 0, 0]


def test_patches_end_after_the_bytes_that_are_hardest_to_go_on_from_and_are_as_long_as_wished():
    draw = random.Random(3)
    texts = [" ".join("".join(draw.choice("aeiou") + "n" for _ in range(draw.randint(1, 4))) for _ in range(400)) for _ in range(3)]
    ends = hardest(texts, 2.5, 8)
    text = np.frombuffer("".join(texts).encode(), dtype=np.uint8)
    assert ord("n") in ends and not set(ends) & set(b"aeiou")  # a vowel is always followed by n
    assert mean_length(text, ends, 8) <= 2.5
    lengths, run = [], 0
    for byte in text.tolist():
        run += 1
        if byte in ends or run == 8:
            lengths.append(run)
            run = 0
    assert mean_length(text, ends, 8) == pytest.approx(len(text) / (len(lengths) + bool(run)))


def test_a_new_model_learns_where_its_patches_end_and_keeps_it(tmp_path):
    (tmp_path / "corpus.txt").write_text("the quick brown fox jumps over the lazy dog, and over again. " * 50, encoding="utf-8")
    inputs = {"patches": {"size": 8, "mean": 4, "data": str(tmp_path / "corpus.txt")}}
    model = new_model(DecoderPlan.model_validate(SMALL | {"inputs": inputs}), Run(tmp_path / "run", 3))
    ends = model.trunk.plan.depth.ends
    assert ord(" ") in ends
    model.save(tmp_path / "saved")
    (tmp_path / "corpus.txt").unlink()
    assert load(tmp_path / "saved").trunk.plan.depth.ends == ends


@pytest.mark.parametrize(
    ("patches", "told"), [({"mean": 3}, "need both"), ({"mean": 5, "size": 4, "data": "python"}, "raise `size`"), ({"size": 1}, "size")]
)
def test_settings_that_do_not_fit_are_refused_when_read(patches, told):
    with pytest.raises(ValidationError, match=told):
        DecoderPlan.model_validate(SMALL | {"inputs": {"patches": patches}})


def test_programs_for_single_bytes_inside_blocks_are_refused():
    trunk = decoder("patches")
    for program in (SiteProgram(stop=0), SiteProgram(add={"blocks.0.input": Add(torch.zeros(1, 32))})):
        with pytest.raises(UnsupportedError, match="single bytes"):
            trunk.logits(ids(1, 8), Step.whole(1, 8, torch.device("cpu"), program=program))


def test_a_model_of_patches_is_saved_and_read_back_the_same(tmp_path):
    plan = DecoderPlan.model_validate(SMALL | {"initial": 0.2, "inputs": {"patches": {"size": 3, "width": 20, "depth": 1}}})
    model = new_model(plan, Run(tmp_path / "run", 3))
    model.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert isinstance(again.trunk.plan.depth, PatchedPlan) and again.trunk.plan == model.trunk.plan
    text = torch.tensor([model.tokenizer.encode("patches of bytes, naïve ones")])
    with torch.inference_mode():
        assert torch.equal(again.logits(text), model.logits(text))
