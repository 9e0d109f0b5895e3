"""A recipe says on which device models are trained and answer; what is not there is told before anything runs."""

from __future__ import annotations

import pytest
import torch

from steelyard.core import recipe as recipes
from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.core.recipe import Arm, ModelSource
from steelyard.core.references import ModelRef
from steelyard.core.run import Run
from steelyard.generate.offload import Offload
from steelyard.weigh import runner
from steelyard.weigh.asking import arms
from steelyard.weigh.asking.arms import ArmOpener

RECIPE = {"new": {"width": 32, "depth": 1, "context": 64}, "arms": {"int8": ["int8"]}, "tasks": ["arithmetic"]}


def test_a_device_is_part_of_the_recipe_and_an_override_sets_it():
    read = recipes.from_mapping(RECIPE, ["run.device=cuda:1"])
    assert read.run.place == "cuda:1" and recipes.from_mapping(read.resolved()).run == read.run
    assert recipes.from_mapping(RECIPE).run.place == "cpu"
    with pytest.raises(RecipeError, match="leave `device` or `ray` out"):
        recipes.from_mapping(RECIPE, ["run.device=cuda", "run.ray=auto"])


def test_a_device_that_is_not_there_stops_a_weighing_before_it_asks(tmp_path):
    with pytest.raises(UnsupportedError, match="device 'cuda:99'"):
        runner.weigh(recipes.from_mapping(RECIPE, ["run.device=cuda:99"]), tmp_path / "run")
    assert not (tmp_path / "run" / "records.sqlite").exists()


def test_every_model_of_an_arm_is_loaded_onto_the_device(tmp_path, monkeypatch):
    asked = []

    def load(name, *given, **named):
        asked.append((name, named["device"] if "device" in named else given[3]))
        raise UnsupportedError("enough is seen")

    monkeypatch.setattr(arms, "load", load)
    opener = ArmOpener(Run(tmp_path, device="meta"))
    for levers in ((), (Offload(),)):
        with pytest.raises(UnsupportedError, match="enough is seen"):
            opener.open(Arm(name="a", source=ModelSource(name="some"), levers=levers))
    with pytest.raises(UnsupportedError, match="enough is seen"):
        opener.references(ModelRef("teacher"))
    assert asked == [("some", "meta"), ("some", "meta"), ("teacher", "meta")]


def test_a_new_model_lies_on_the_device(tmp_path):
    opener = ArmOpener(Run(tmp_path, device="meta"))
    base = recipes.from_mapping(RECIPE).arms["base"]
    assert opener._base(base, 1).trunk.device == torch.device("meta")
