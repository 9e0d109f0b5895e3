"""Bytes in patches: what is computed, what may be known, what it costs, and what is said of it."""

from __future__ import annotations

import random
from pathlib import Path

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
    """Pairs of a byte and a position before it whose logits change with the byte; a byte that ends patches is put in at every place too."""
    text, known = ids(1, 24, 3), 0
    with torch.inference_mode():
        before = trunk.logits(text)[0]
        for t in range(1, 24):
            for other in ((int(text[0, t]) + 1) % VOCABULARY, 17):
                changed = text.clone()
                changed[0, t] = other
                known += int(((trunk.logits(changed)[0, :t] - before[:t]).abs().amax(-1) > 1e-5).sum())
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


def where_patches_end(text: bytes, ends: tuple[int, ...], size: int) -> list[bool]:
    """Of each byte whether it ends a patch, as a model cuts the text."""
    read = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()[None]
    step = Step.whole(1, len(text), read.device)
    return patches.cut(step, size, torch.isin(read, torch.tensor(ends)), torch.zeros(1, dtype=torch.int64)).ends[0].tolist()


def threshold(text: np.ndarray, ends: tuple[int, ...]) -> float:
    """Bits between the bytes that end patches and those that do not: there must be such a number."""
    entropies = next_entropies(text)
    low, high = entropies[np.setdiff1d(np.arange(256), ends)].max(), entropies[list(ends)].min()
    assert low < high
    return (low + high) / 2


SOURCE = Path(patches.__file__).read_bytes()
"""Text whose bytes are hard to tell in places."""


@pytest.mark.parametrize(("mean", "size"), [(2.5, 4), (4.0, 8), (5.0, 6)])
def test_patches_begin_where_the_entropy_of_the_next_byte_is_above_one_threshold(mean, size):
    """The global constraint of arXiv:2412.09871, section 2.3: x_t begins a patch where H(x_t) > theta; here also after `size` bytes."""
    text = np.frombuffer(SOURCE, dtype=np.uint8)
    ends = hardest([SOURCE.decode()], mean, size)
    entropies, theta = next_entropies(text), threshold(text, ends)
    begins, since = [], 0
    for place in range(len(SOURCE)):
        begins.append(place == 0 or entropies[SOURCE[place - 1]] > theta or since == size)
        since = 1 if begins[-1] else since + 1
    assert where_patches_end(SOURCE, ends, size)[:-1] == begins[1:]
    assert 0.2 < np.mean(begins) < 0.5


def test_patches_are_cut_as_transformers_cuts_them_by_the_same_entropies():
    from transformers.models.blt.modeling_blt import BltPatcher, process_patch_lengths

    size, text = 8, np.frombuffer(SOURCE[:3000], dtype=np.uint8)
    ends = hardest([SOURCE.decode()], 4.0, size)
    whole = np.frombuffer(SOURCE, dtype=np.uint8)
    # Theirs reads a token that begins the text, which is a patch of its own; its entropy is not looked at.
    entropies = torch.from_numpy(np.concatenate(([0.0], next_entropies(whole)[text])))[None]
    lengths = BltPatcher.patch_lengths_from_entropies(entropies, len(text) + 1, threshold=threshold(whole, ends))
    theirs = [length for length in process_patch_lengths(lengths, size)[0].tolist() if length][1:]
    places = np.flatnonzero(where_patches_end(text.tobytes(), ends, size)).tolist()
    ours = np.diff([-1, *places, *([len(text) - 1] if places[-1] != len(text) - 1 else [])]).tolist()
    assert ours == theirs and len(set(ours)) == size


def test_where_patches_end_in_a_text_is_known_from_its_beginning_alone():
    """Incremental patching, arXiv:2412.09871, section 2.4: what follows a beginning of a text does not move the ends of patches in it."""
    ends, text = hardest([SOURCE.decode()], 3.0, 6), SOURCE[:120]
    whole = where_patches_end(text, ends, 6)
    assert all(where_patches_end(text[:length], ends, 6) == whole[:length] for length in range(1, len(text)))


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
