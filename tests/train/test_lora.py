"""Low-rank adapters: peft's files both ways, peft's losses step for step, and a base that nobody touches."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from steelyard.core.errors import ModelFileError, RecipeError, SteelyardError, UnsupportedError
from steelyard.core.run import Run
from steelyard.data.batching import NOT_LEARNED, Batches
from steelyard.data.encoding import TokenRow
from steelyard.model.adapters import load_adapter, save_adapter
from steelyard.model.families.config import Config
from steelyard.model.families.family import find
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.lora import branches, merge, view
from steelyard.model.model import Model
from steelyard.model.save import their_tensors
from steelyard.train.adapters.lora import LoraPlan, attach, paths
from steelyard.train.objectives import next_token_loss
from steelyard.train.trainer import TrainerSettings, train

LLAMA = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "llama": {**LLAMA, "tie_word_embeddings": True},
    "gpt2": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "phi3": {**LLAMA, "pad_token_id": 0},
    "gpt_neox": {**LLAMA, "max_position_embeddings": 64},
}
FUSED = {"gpt2": "c_attn", "phi3": "qkv_proj", "gpt_neox": "query_key_value"}
IDS = torch.randint(0, 60, (2, 20), generator=torch.Generator().manual_seed(5))


def tiny(kind="llama", seed=0):
    """A random model of ours."""
    torch.manual_seed(seed)
    config = {**CONFIGS[kind], "model_type": kind}
    family = find(kind, "here")
    if kind == "gpt_neox":
        config.pop("num_key_value_heads")
    trunk = family.plan(Config(config)).build()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return Model(trunk.eval(), family, config)


def theirs(model):
    """The same model in transformers."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**{"bos_token_id": 0, "eos_token_id": 0, **model.config})
    twin = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    prefix = model.family.prefixes[0] if model.family.prefixes else ""
    heads = {"embed_out.weight": "lm_head.weight", "lm_head.weight": "lm_head.weight"}
    tensors = {heads.get(name, prefix + name): tensor for name, tensor in their_tensors(model)}
    missing, unexpected = twin.load_state_dict(tensors, strict=False)
    assert not unexpected and all("lm_head" in name or "bias" in name for name in missing)
    return twin


def logits(thing, adapted=None):
    with torch.no_grad():
        return (adapted if adapted is not None else thing.trunk).logits(IDS) if isinstance(thing, Model) else thing(IDS).logits


def randomised(trunk, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _, branch in branches(trunk).values():
        branch.b.data = torch.randn(branch.b.shape, generator=generator) * 0.1
    return trunk


def close(a, b):
    return float((a - b).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("targets", ["all", ("query", "value"), ("output",)])
def test_a_saved_adapter_opens_in_peft_with_the_same_logits(tmp_path, kind, targets):
    peft = pytest.importorskip("peft")
    model = tiny(kind)
    adapted = randomised(attach(model, model.trunk, LoraPlan(4, 8.0, 0.0, targets), seed=0))
    save_adapter(model.family, adapted, tmp_path, "tiny")
    twin = theirs(model)
    assert close(logits(model), logits(twin))
    opened = peft.PeftModel.from_pretrained(twin, tmp_path).eval()
    assert close(logits(model, adapted), logits(opened))
    assert not close(logits(model), logits(model, adapted))
    again = load_adapter(model.family, model.trunk, tmp_path)
    assert close(logits(model, adapted), logits(model, again))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("variant", [{}, {"use_rslora": True}, {"rank_pattern": {"1": 0}, "alpha_pattern": {"1": 0}}])
def test_pefts_own_adapters_load_with_the_same_logits(tmp_path, kind, variant):
    peft = pytest.importorskip("peft")
    model, twin = tiny(kind), theirs(tiny(kind))
    target = FUSED.get(kind, "q_proj")
    if "rank_pattern" in variant:
        path = next(name for name, _ in twin.named_modules() if name.endswith(target) and ".1." in name)
        variant = {"rank_pattern": {path: 6}, "alpha_pattern": {path: 3}}
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=[target], init_lora_weights=False, fan_in_fan_out=kind == "gpt2", **variant)
    torch.manual_seed(3)
    adapted = peft.get_peft_model(twin, config).eval()
    adapted.save_pretrained(tmp_path)
    opened = load_adapter(model.family, model.trunk, tmp_path)
    assert close(logits(model, opened), logits(adapted))


def rows(count=16):
    random = np.random.default_rng(0)
    return [
        TokenRow(random.integers(0, 60, n).astype(np.int32), np.arange(n) >= 3, f"r:{i}", str(i))
        for i, n in enumerate(random.integers(6, 18, count))
    ]


def test_training_gives_pefts_losses_from_the_same_beginning(tmp_path):
    peft = pytest.importorskip("peft")
    model = tiny()
    adapted = attach(model, model.trunk, LoraPlan(4, 8.0), seed=2)
    save_adapter(model.family, adapted, tmp_path / "start", "tiny")
    opened = peft.PeftModel.from_pretrained(theirs(model), tmp_path / "start", is_trainable=True).train()
    stream = Batches(rows(), 4, seed=1, epochs=None)
    settings = TrainerSettings(steps=12, learning_rate=5e-3, warmup=0.0, shape="constant", weight_decay=0.1)
    train(adapted, next_token_loss(adapted), stream, settings, Run(tmp_path))
    ours = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    optimizer = torch.optim.AdamW([p for p in opened.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.1)
    their_losses = []
    for (batch, _), _ in zip(stream.iterate(), range(12), strict=False):
        ids, targets = torch.from_numpy(batch.ids), torch.from_numpy(batch.targets)
        out = opened(ids).logits
        loss = torch.nn.functional.cross_entropy(out.flatten(0, 1), targets.flatten(), ignore_index=NOT_LEARNED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in opened.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        their_losses.append(loss.item())
    assert ours == pytest.approx(their_losses, abs=1e-4)
    assert ours[-1] < ours[0]


def test_fresh_branches_change_nothing_and_the_base_is_never_touched(tmp_path):
    model = tiny()
    before, digest = logits(model), tiny().fingerprint
    adapted = attach(model, model.trunk, LoraPlan(), seed=0)
    assert torch.equal(logits(model, adapted), before)
    train(adapted, next_token_loss(adapted), Batches(rows(), 4, epochs=None), TrainerSettings(steps=3, learning_rate=0.1), Run(tmp_path))
    merged = merge(adapted)
    assert not close(logits(model, adapted), before)
    assert torch.equal(logits(model), before)
    assert tiny().fingerprint == digest == Model(model.trunk, model.family, model.config).fingerprint
    assert not branches(model.trunk) and not branches(merged)


def test_a_merged_model_answers_like_the_adapted_one():
    model = tiny()
    adapted = randomised(attach(model, model.trunk, LoraPlan(4, 8.0), seed=0))
    merged = merge(adapted)
    assert close(logits(model, merged), logits(model, adapted))
    assert merged.inputs.weight.data_ptr() == model.trunk.inputs.weight.data_ptr()
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_only_branches_take_gradients():
    adapted = attach(tiny(), tiny().trunk, LoraPlan(2), seed=0)
    assert {name.rpartition(".")[2] for name, parameter in adapted.named_parameters() if parameter.requires_grad} == {"a", "b"}


def test_targets_are_named_as_we_do_or_as_everybody_does():
    model = tiny("gpt2")
    assert paths(model, ("c_attn",)) == paths(model, ("query", "key", "value"))
    assert len(paths(model, "all")) == 2 * 6 and not any("lm" in path for path in paths(model, "all"))
    assert paths(tiny(), ("q_proj",)) == paths(tiny(), ("query",)) == ["blocks.0.mixer.query", "blocks.1.mixer.query"]
    with pytest.raises(RecipeError, match="Did you mean `q_proj`"):
        paths(tiny(), ("q_projj",))


def test_packed_or_adapted_maps_are_refused():
    model = tiny()
    adapted = attach(model, model.trunk, LoraPlan(), seed=0)
    with pytest.raises(UnsupportedError, match="has an adapter already"):
        attach(model, adapted, LoraPlan(), seed=0)
    packed = view(model.trunk)
    linear = packed.get_submodule("blocks.0.mixer.query")
    linear.storage = Int8Storage(torch.zeros(32, 32, dtype=torch.int8), torch.ones(32, 1), None)
    with pytest.raises(UnsupportedError, match="before it is quantized"):
        attach(model, packed, LoraPlan(), seed=0)


@pytest.fixture
def saved(tmp_path):
    model = tiny()
    save_adapter(model.family, randomised(attach(model, model.trunk, LoraPlan(2), seed=0)), tmp_path / "adapter", "tiny")
    return model, tmp_path / "adapter"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"lora_alpha": "eight"}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "regular expression"),
    ],
)
def test_adapters_that_compute_something_else_are_refused(saved, change, words):
    model, directory = saved
    config = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(SteelyardError, match=words):
        load_adapter(model.family, model.trunk, directory)


@pytest.mark.parametrize("damage", ["no config", "half config", "list", "no weights", "half weights", "pickle"])
def test_damaged_adapters_are_refused(saved, damage):
    model, directory = saved
    config, weights = directory / "adapter_config.json", directory / "adapter_model.safetensors"
    match damage:
        case "no config":
            config.unlink()
        case "half config":
            config.write_text(config.read_text()[:30])
        case "list":
            config.write_text("[1]")
        case "no weights":
            weights.unlink()
        case "half weights":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "pickle":
            weights.write_bytes(b"\x80\x04\x95" + bytes(50))
    with pytest.raises(SteelyardError):
        load_adapter(model.family, model.trunk, directory)


@pytest.mark.parametrize("change", ["foreign", "half pair", "shape", "nan", "empty"])
def test_adapters_that_do_not_fit_are_refused(saved, change):
    model, directory = saved
    weights = directory / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    first = next(iter(tensors))
    match change:
        case "foreign":
            tensors["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = torch.zeros(2, 32)
        case "half pair":
            del tensors[first]
        case "shape":
            tensors[first] = torch.zeros(2, 31)
        case "nan":
            tensors[first] = tensors[first] * float("nan")
        case "empty":
            tensors = {}
    safetensors.torch.save_file(tensors, weights)
    with pytest.raises(ModelFileError):
        load_adapter(model.family, model.trunk, directory)


def test_an_adapter_for_another_model_is_refused_with_its_base(saved, tmp_path):
    _, directory = saved
    shutil.copytree(directory, tmp_path / "copy")
    with pytest.raises(ModelFileError, match="its base is 'tiny'"):
        other = tiny("gpt2")
        load_adapter(other.family, other.trunk, tmp_path / "copy")
