"""Eight bits are really eight bits, in memory, on disk and in the product, and cost no more than the rounding they name."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_talker import tiny_talker

from steelyard.compress.quantize.quantize import Quantize
from steelyard.core import levers
from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.generate.engine import Engine
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.model.linears.int8 import LONGEST, Int8Storage, quantize_rows
from steelyard.model.linears.linear import Linear
from steelyard.model.load import load
from steelyard.model.model import Model

BIASED = {"attention_bias": True}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_talker(tie_word_embeddings=False)


@pytest.fixture(scope="module")
def packed(model) -> Model:
    return Quantize().compress(model, None)


def linears(model: Model) -> dict[str, Linear]:
    return {name: module for name, module in model.trunk.named_modules() if isinstance(module, Linear)}


def some_ids(rows: int = 3, time: int = 17) -> torch.Tensor:
    return torch.randint(0, 256, (rows, time), generator=torch.Generator().manual_seed(0))


# In memory


def test_linears_are_held_in_8_bits_with_one_scale_a_row(packed):
    for name, linear in linears(packed).items():
        if name == "heads.lm.linear":
            assert linear.storage.kind == "dense"
            continue
        storage = linear.storage
        assert isinstance(storage, Int8Storage)
        assert storage.weight.dtype == torch.int8 and storage.weight.shape == (linear.outputs, linear.inputs)
        assert storage.scale.dtype == torch.float32 and storage.scale.shape == (linear.outputs, 1)
        assert storage.bytes() == linear.outputs * (linear.inputs + 4)
        assert not any(tensor.is_floating_point() and tensor.shape == storage.weight.shape for tensor in storage.state_dict().values())


def test_a_packed_model_is_smaller_by_what_its_linears_lost(model, packed):
    lost = sum(3 * linear.inputs * linear.outputs - 4 * linear.outputs for name, linear in linears(model).items() if "heads" not in name)
    assert model.trunk.weight_bytes() - packed.trunk.weight_bytes() == lost


def test_the_engine_keeps_8_bits_in_8_bits(packed):
    with Engine(packed, dtype="float32") as engine:
        for name, linear in linears(packed).items():
            rows, columns = -(-linear.outputs // 16) * 16, -(-linear.inputs // 32) * 32
            size = engine.trunk.get_submodule(name).storage.bytes()
            assert name == "heads.lm.linear" or size <= rows * (columns + 4)
    with Engine(packed, dtype="float32", kernels="pytorch") as engine:
        kinds = {str(tensor.dtype) for name, tensor in engine.trunk.state_dict().items() if name.endswith("down.storage.weight")}
        assert kinds == {"torch.int8"}


def test_the_original_is_left_as_it_was_and_what_is_not_packed_is_shared(model):
    before = {name: tensor.clone() for name, tensor in model.trunk.state_dict().items()}
    packed = Quantize().compress(model, None)
    after = model.trunk.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert packed.trunk.inputs.weight is model.trunk.inputs.weight
    assert len({model.fingerprint, packed.fingerprint, Quantize(activations=8).compress(model, None).fingerprint}) == 3


def test_the_head_is_packed_only_where_asked_and_a_tied_table_stays_in_floats():
    for tied in (False, True):
        model = tiny_talker(tie_word_embeddings=tied)
        packed = Quantize(head=True).compress(model, None)
        assert isinstance(packed.trunk.heads["lm"].linear.storage, Int8Storage)
        assert packed.trunk.inputs.weight.dtype == torch.float32
        assert model.trunk.plan.heads["lm"].tied == tied


# The rounding

numbers = st.one_of(
    st.floats(-1, 1, width=32),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.sampled_from([0.0, 1e-30, -3e38, 65504.0, 1e-45, -0.0, 127.0]),
)
matrices = st.integers(1, 12).flatmap(lambda width: st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=6))


@settings(max_examples=200, deadline=None)
@given(matrices)
def test_no_weight_moves_by_more_than_half_a_step_of_its_row(rows):
    weight = torch.tensor(rows, dtype=torch.float32)
    storage = Int8Storage.from_dense(weight)
    step = storage.scale.double()
    assert storage.weight.min() >= -127
    error = (storage.weight.double() * step - weight.double()).abs()
    assert (error <= step / 2 * (1 + 1e-5)).all()
    for row, scale in zip(weight, step, strict=True):
        largest = float(row.abs().max())
        if largest > 1e-30:
            assert float(scale) == pytest.approx(largest / 127, rel=1e-6)


def test_one_outlier_costs_its_own_row_only():
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    spoiled = weight.clone()
    spoiled[2, 5] = 1e6
    clean, storage = Int8Storage.from_dense(weight), Int8Storage.from_dense(spoiled)
    for row in (0, 1, 3):
        assert torch.equal(clean.weight[row], storage.weight[row]) and torch.equal(clean.scale[row], storage.scale[row])
    assert storage.dense()[2, 5] == pytest.approx(1e6) and storage.weight[2].count_nonzero() == 1


def test_small_rows_are_as_precise_as_large_ones():
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    small = Int8Storage.from_dense(weight * 2.0**-60)
    assert torch.equal(small.weight, Int8Storage.from_dense(weight).weight)


def test_rows_of_zeros_stay_zeros():
    weight = torch.zeros(3, 8)
    weight[1] = 1.0
    storage = Int8Storage.from_dense(weight)
    y = storage(torch.randn(5, 8))
    assert not y[:, [0, 2]].any() and y.isfinite().all() and torch.equal(storage.dense(), weight)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused_with_their_place(value):
    model = tiny_talker()
    with torch.no_grad():
        model.trunk.get_submodule("blocks.1.channel.down").storage.weight[3, 4] = value
    with pytest.raises(UnsupportedError, match=r"blocks\.1\.channel\.down.*NaN or infinity"):
        Quantize().compress(model, None)


def test_more_inputs_than_32_bits_can_sum_are_refused():
    assert LONGEST * 127 * 127 < 2**31 <= (LONGEST + 1) * 127 * 127
    assert float(Int8Storage.from_dense(torch.ones(1, LONGEST))(torch.ones(1, LONGEST))) == pytest.approx(LONGEST)
    with pytest.raises(UnsupportedError, match="inputs"):
        Int8Storage.from_dense(torch.ones(1, LONGEST + 1))


# The product

SHAPES = [
    (1, 1, 1),
    (1, 7, 3),
    (2, 3, 5),
    (1, 64, 1),
    (3, 65, 31),
    (16, 100, 33),
    (17, 133, 2),
    (33, 48, 260),
    (1, 576, 1536),
    (64, 1536, 576),
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("digits", [1, 2])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_the_integer_product_equals_its_readable_twin(rows, inputs, outputs, digits, bias):
    generator = torch.Generator().manual_seed(rows * inputs)
    weight, x = torch.randn(outputs, inputs, generator=generator), torch.randn(rows, inputs, generator=generator) * 3
    storage = Int8Storage.from_dense(weight, torch.randn(outputs, generator=generator) if bias else None, digits)
    torch.testing.assert_close(storage(x), storage.forward_readably(x), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("digits", [1, 2])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_the_product_is_near_the_float_product_by_what_both_roundings_allow(rows, inputs, outputs, digits):
    """|y - y_float| <= sum over terms of |x| s_w/2 + |w| s_x/2 + s_x s_w/4, where s_x is the step of the last digit."""
    generator = torch.Generator().manual_seed(inputs)
    weight, x = torch.randn(outputs, inputs, generator=generator), torch.randn(rows, inputs, generator=generator)
    storage = Int8Storage.from_dense(weight, None, digits)
    step_x, step_w = quantize_rows(x)[1].double() / 254 ** (digits - 1), storage.scale.double().t()
    bound = x.double().abs().sum(1, keepdim=True) * step_w / 2 + weight.double().abs().sum(1) * step_x / 2 + inputs * step_x * step_w / 4
    error = (storage(x).double() - x.double() @ weight.double().t()).abs()
    assert (error <= bound * 1.001 + 1e-6).all()
    if inputs >= 64:
        assert error.mean() < 0.02 * math.sqrt(inputs), "the typical error is far below the bound"


def test_the_second_digit_saves_what_an_outlier_swallows():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(32, 64, generator=generator), torch.randn(5, 64, generator=generator)
    x[:, 3] = 1000.0
    weight[:, 3] = 0.0
    exact = x.double() @ weight.double().t()
    errors = [float((Int8Storage.from_dense(weight, None, digits)(x) - exact).abs().mean()) for digits in (1, 2)]
    assert errors[1] < errors[0] / 20


def test_extreme_products_do_not_saturate():
    """Some 8-bit kernels add pairs of products in 16 bits, which +-127 x 127 twice over fills."""
    for sign, inputs, digits in itertools.product((1.0, -1.0), (2, 4, 64, 576), (1, 2)):
        storage = Int8Storage.from_dense(torch.full((5, inputs), sign), None, digits)
        assert storage(torch.full((3, inputs), 2.0)).flatten().tolist() == pytest.approx([2.0 * sign * inputs] * 15)


@pytest.mark.parametrize("digits", [1, 2])
def test_a_row_depends_on_no_other_row(digits):
    generator = torch.Generator().manual_seed(1)
    storage = Int8Storage.from_dense(torch.randn(48, 100, generator=generator), None, digits)
    x = torch.randn(40, 100, generator=generator)
    x[7] = math.nan
    x[8] *= 1e30
    whole = storage(x)
    assert whole[7].isnan().all() and whole[[*range(7), *range(9, 40)]].isfinite().all()
    for count in (1, 2, 3, 5, 16, 17):
        for start in range(0, 40 - count + 1, 9):
            assert torch.equal(storage(x[start : start + count]).nan_to_num(9), whole[start : start + count].nan_to_num(9))


def test_any_leading_shape_and_no_rows_at_all_are_fine():
    storage = Int8Storage.from_dense(torch.randn(6, 10), None, 2)
    x = torch.randn(2, 3, 10)
    assert torch.equal(storage(x), storage(x.view(6, 10)).view(2, 3, 6))
    assert storage(torch.empty(0, 10)).shape == (0, 6) and storage(torch.empty(2, 0, 10)).shape == (2, 0, 6)
    assert storage(x.bfloat16()).dtype == torch.bfloat16


def test_scales_of_another_shape_are_refused():
    for weight, scale in [(torch.zeros(3, 4), torch.ones(3, 1)), (torch.zeros(3, 4, dtype=torch.int8), torch.ones(3))]:
        with pytest.raises(UnsupportedError, match="one scale per output row"):
            Int8Storage(weight, scale, None)


# On disk


@pytest.mark.parametrize("lever", [Quantize(), Quantize(head=True), Quantize(activations=8)], ids=["16", "head", "8"])
@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": False}, BIASED], ids=["tied", "untied", "biased"])
def test_saved_and_loaded_a_packed_model_is_the_same_to_the_bit(tmp_path, config, lever):
    model = tiny_talker(**config)
    if config is BIASED:
        with torch.no_grad():
            for linear in linears(model).values():
                if linear.bias is not None:
                    linear.bias.normal_()
    packed = lever.compress(model, None)
    packed.save(tmp_path / "packed")
    loaded = load(tmp_path / "packed")
    assert loaded.fingerprint == packed.fingerprint
    assert torch.equal(loaded.logits(some_ids()), packed.logits(some_ids()))
    assert [linear.storage.kind for linear in linears(loaded).values()] == [linear.storage.kind for linear in linears(packed).values()]


def test_on_disk_weights_are_8_bits_and_the_config_says_how(tmp_path, packed, model):
    packed.save(tmp_path / "packed")
    model.save(tmp_path / "plain")
    tensors = load_file(tmp_path / "packed" / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    assert tensors[name].dtype == torch.int8 and tensors[f"{name}_scale"].shape == (32, 1)
    assert tensors["lm_head.weight"].dtype == torch.float32
    assert sum(tensor.dtype == torch.int8 for tensor in tensors.values()) == 14
    quantization = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    assert quantization["quant_method"] == "compressed-tensors" and quantization["ignore"] == ["lm_head"]
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("packed", "plain")]
    saved = model.trunk.weight_bytes() - packed.trunk.weight_bytes()
    assert sizes[1] - sizes[0] == pytest.approx(saved, abs=3000)  # the header names the scales as well


# As a lever


def test_the_lever_is_found_by_name_and_by_preset_and_refuses_what_it_cannot_do():
    assert levers.parse("int8") == levers.parse({"quantize": 8}) == levers.parse({"quantize": {}}) == Quantize()
    for wrong in ({"bits": 3}, {"bits": 16}, {"bits": "eight"}, {"activations": 4}, {"bit": 8}, {"head": "maybe"}):
        with pytest.raises(RecipeError):
            levers.parse({"quantize": wrong})


def test_packing_twice_and_packing_what_cannot_be_packed_is_refused(packed):
    twice = [Quantize(), Quantize(head=True)]
    with pytest.raises(RecipeError, match="conflicts with packed_weights"):
        levers.check_chain(twice, {"weights"}, "arm")
    with pytest.raises(RecipeError, match="needs weights"):
        levers.check_chain([Quantize()], {"logprobs"}, "arm")
    with pytest.raises(RecipeError, match="comes after"):
        levers.check_chain([PromptLookup(), Quantize()], {"weights"}, "arm")
    levers.check_chain([Quantize(), PromptLookup()], {"weights"}, "arm")
    with pytest.raises(UnsupportedError, match="no linear to quantize"):
        Quantize().compress(packed, None)


def test_branches_must_be_merged_first(model):
    branched = tiny_talker()
    linear = branched.trunk.get_submodule("blocks.0.mixer.query")
    linear.branches["lora"] = torch.nn.Identity()
    with pytest.raises(UnsupportedError, match=r"blocks\.0\.mixer\.query.*not merged"):
        Quantize().compress(branched, None)


def test_packed_answers_are_the_same_to_the_bit_whatever_else_runs(packed):
    prompts = ["one", "another, longer " * 5, "é", "and a fourth"]
    options = {"max_tokens": 16, "temperature": 1.0, "ignore_eos": True, "alternatives": 2}
    for dtype in ("float32", "bfloat16"):
        with Engine(packed, deterministic=True, dtype=dtype, slots=3) as engine:
            alone = [engine.generate([prompt], **options)[0] for prompt in prompts]
            together = engine.generate(prompts + prompts[::-1], **options)
            assert [(one.text, one.tokens) for one in together] == [(one.text, one.tokens) for one in alone + alone[::-1]]
            with Engine.from_spec(PromptLookup(shortest=1).decode(engine.spec)) as looking:
                assert [(one.text, one.tokens) for one in looking.generate(prompts, **options)] == [(one.text, one.tokens) for one in alone]


# The real model

TEXT = """The steelyard is a straight-beam balance with arms of unequal length. It incorporates a counterweight which slides along
the longer arm to counterbalance the load and indicate its weight. A steelyard is also known as a Roman steelyard or Roman balance.
It was used by the Romans and the Chinese, and later across Europe, to weigh goods in markets and at customs houses. The object to be
weighed hangs from the short arm; the weight is moved along the long arm until the beam is level, and the figure is read from a scale."""


@pytest.fixture(scope="module")
def real(smollm) -> SimpleNamespace:
    model = load(smollm)
    return SimpleNamespace(model=model, packed=Quantize().compress(model, None), coarse=Quantize(activations=8).compress(model, None))


def test_the_real_model_costs_at_most_one_percent_more_bits_a_byte(real):
    bits = []
    for model in (real.model, real.packed, real.coarse):
        with Engine(model, dtype="float32", slots=1, context=256) as engine:
            (score,) = engine.score_text([TEXT])
            bits.append(-score.logprob / math.log(2) / score.bytes)
    assert 0.3 < bits[0] < 1.5
    assert bits[1] / bits[0] == pytest.approx(1, abs=0.01)
    assert bits[2] / bits[0] == pytest.approx(1, abs=0.04), "one digit costs 1.3% on average"
    assert len(set(bits)) == 3


def test_the_real_model_shrinks_to_a_quarter_of_its_linears(real):
    held = {name: linear.storage.bytes() for name, linear in linears(real.model).items() if "heads" not in name}
    left = {name: linear.storage.bytes() for name, linear in linears(real.packed).items() if "heads" not in name}
    assert sum(left.values()) < 0.26 * sum(held.values())
