"""The lever registry: ours and other people's, working and broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from third_party import installed, write_demo, write_package

from steelyard.core import levers, plugins
from steelyard.core.errors import RecipeError, SteelyardError

OURS = [point.name for point in plugins.points(levers.ENTRY_POINTS).values() if point.package == plugins.OURS]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Path]:
    write_demo(tmp_path)
    with installed(tmp_path):
        yield tmp_path


def test_a_third_party_lever_is_found_through_its_entry_point(demo: Path) -> None:
    lever = levers.parse({"demo_rescale": {"factor": 2}})
    assert lever.name == "demo_rescale"
    assert lever.settings == {"factor": 2.0, "note": ""}
    assert "demo_rescale" in levers.all_levers()
    assert levers.all_levers()["demo_rescale"].stages() == ("weights",)


def test_names_are_told_without_importing_anything(demo: Path) -> None:
    import sys

    assert {"demo_rescale", *OURS} <= set(levers.names())
    assert "demo_levers" not in sys.modules


def test_a_preset_fills_in_settings_and_may_be_overridden(demo: Path) -> None:
    assert levers.parse("demo_half").settings["factor"] == 0.5
    assert levers.parse({"demo_half": {"note": "kept"}}).settings == {"factor": 0.5, "note": "kept"}
    assert levers.parse({"demo_half": 3}).settings["factor"] == 3.0


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("not_installed", "import a_module_nobody_has", "a_module_nobody_has"),
        ("bad_syntax", "class :", "SyntaxError"),
        ("fails", "raise RuntimeError('no licence')", "no licence"),
        ("leaves", "import sys; sys.exit('goodbye')", "goodbye"),
        ("no_class", "Thing = 3", "not a Lever class"),
        ("no_attribute", "", "Thing"),
        (
            "no_identity",
            "from steelyard.core.levers import Lever\nclass Thing(Lever):\n    name = 'no_identity'\n    idea = 'x'",
            "does not declare identity",
        ),
    ],
)
def test_a_broken_package_is_listed_with_its_reason_and_stops_nobody(demo: Path, name: str, source: str, reason: str) -> None:
    write_package(demo, "broken-levers", {f"module_{name}": source}, {"steelyard.levers": {name: f"module_{name}:Thing"}})
    with installed(demo):
        assert name not in levers.all_levers()
        assert reason in levers.broken()[name]
        assert levers.parse("demo_half").name == "demo_rescale"
        with pytest.raises(SteelyardError, match=name) as raised:
            levers.parse(name, where="here")
        assert raised.value.where is not None and raised.value.where.startswith("here")


def test_a_lever_must_say_what_every_lever_says(demo: Path) -> None:
    source = (
        "from typing import ClassVar\nfrom steelyard.core.levers import Lever\nclass Thing(Lever):\n    name: ClassVar[str] = 'silent'\n"
    )
    write_package(demo, "silent-levers", {"silent": source}, {"steelyard.levers": {"silent": "silent:Thing"}})
    with installed(demo):
        assert "idea, identity" in levers.broken()["silent"]


def test_a_lever_without_a_hook_is_no_lever(demo: Path) -> None:
    source = (demo / "demo_levers.py").read_text().replace("demo_rescale", "demo_idle").replace("def compress", "def squeeze")
    write_package(demo, "idle-levers", {"idle": source}, {"steelyard.levers": {"demo_idle": "idle:Rescale"}})
    with installed(demo):
        assert "implements no hook" in levers.broken()["demo_idle"]


def test_another_package_cannot_take_the_name_of_ours(demo: Path) -> None:
    write_package(demo, "aaa-shadow", {}, {"steelyard.levers": {"quantize": "demo_levers:Rescale"}})
    with installed(demo):
        assert levers.parse("int8").name == "quantize"
        assert "stands" in levers.broken()["quantize (aaa-shadow)"]


def test_another_package_cannot_take_a_preset_of_ours(demo: Path) -> None:
    source = (demo / "demo_levers.py").read_text().replace("demo_half", "int8").replace("demo_rescale", "demo_greedy")
    write_package(demo, "greedy-levers", {"greedy": source}, {"steelyard.levers": {"demo_greedy": "greedy:Rescale"}})
    with installed(demo):
        assert levers.parse("int8").name == "quantize"
        assert levers.parse("demo_greedy").name == "demo_greedy"
        assert "demo_greedy: preset int8" in levers.broken()


def test_a_package_seen_twice_on_the_path_is_no_clash(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = tmp_path_factory.mktemp("again")
    write_demo(again)
    with installed(again):
        assert not [name for name in levers.broken() if name.startswith("demo")]


def test_an_unknown_lever_is_told_the_nearest(demo: Path) -> None:
    with pytest.raises(RecipeError, match="Did you mean `demo_rescale`"):
        levers.parse("demo_rescal")
    with pytest.raises(RecipeError, match="Did you mean `demo_half`"):
        levers.parse("demo_hal")


def test_an_unknown_setting_is_told_the_nearest(demo: Path) -> None:
    with pytest.raises(RecipeError, match="(?s)unknown key `facto`.*Did you mean `factor`.*steelyard levers demo_rescale"):
        levers.parse({"demo_rescale": {"facto": 2}})


def test_every_wrong_setting_is_told_at_once(demo: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        levers.parse({"demo_rescale": {"factor": -1, "note": 3, "other": 1}})
    assert all(key in str(raised.value) for key in ("`factor`", "`note`", "`other`"))


def test_a_long_wrong_value_is_shown_short(demo: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        levers.parse({"demo_rescale": {"factor": "x" * 10_000}})
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("entry", [{}, {"a": 1, "b": 2}, 3, None, ["demo_half"], {"demo_decode": 3}, {"demo_rescale": [1]}])
def test_a_malformed_entry_is_refused(demo: Path, entry: object) -> None:
    with pytest.raises(RecipeError):
        levers.parse(entry)  # type: ignore[arg-type]


def test_settings_are_frozen(demo: Path) -> None:
    lever = levers.parse("demo_half")
    with pytest.raises(Exception, match="frozen"):
        lever.factor = 3  # type: ignore[attr-defined]


def test_the_fingerprint_follows_settings_and_nothing_else(demo: Path) -> None:
    half, third = levers.parse("demo_half"), levers.parse({"demo_rescale": 0.3})
    assert half.fingerprint == levers.parse({"demo_rescale": {"factor": 0.5}}).fingerprint
    assert half.fingerprint != third.fingerprint


def test_a_reference_counts_in_the_fingerprint_once_it_is_bound(demo: Path) -> None:
    class Thing:
        def __init__(self, fingerprint: str):
            self.fingerprint = fingerprint

    lever = levers.parse({"demo_wrap": {"documents": "handbook"}})
    assert lever.settings["documents"] == "handbook"
    one, other = (lever.bind(lambda reference, name=name: Thing(name)) for name in ("one", "other"))
    assert one.fingerprint != other.fingerprint
    assert one.documents.value.fingerprint == "one"  # type: ignore[attr-defined]
    with pytest.raises(SteelyardError, match="handbook"):
        _ = lever.documents.value  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('int8,"prompt:Be concise"', ["int8", "prompt:Be concise"]),
        ('int8, prompt:"Short, please"', ["int8", "prompt:Short, please"]),
        ('"prompt:say ""yes"", always",int8', ['prompt:say "yes", always', "int8"]),
        ('prompt:"""quoted"""', ['prompt:"quoted"']),
        ("prompt:Don't", ["prompt:Don't"]),
        ("a,,b,", ["a", "b"]),
        ("", []),
        ("  ", []),
    ],
)
def test_a_try_is_split_at_commas_outside_quotes(text: str, items: list[str]) -> None:
    assert levers.split_try(text) == items


def test_an_open_quote_is_refused() -> None:
    with pytest.raises(RecipeError, match="never closed"):
        levers.split_try('"prompt:Be concise')


@given(st.lists(st.text().map(str.strip).filter(bool), max_size=5))
def test_quoted_items_come_back_as_they_were(items: list[str]) -> None:
    text = ",".join('"' + item.replace('"', '""') + '"' for item in items)
    assert levers.split_try(text) == items


def test_a_try_sets_the_main_value(demo: Path) -> None:
    first, second = levers.parse_try("demo_half,demo_wrap:Be: brief")
    assert first.settings["factor"] == 0.5
    assert second.settings["text"] == "Be: brief"
    assert levers.parse_try("demo_rescale:0.25")[0].settings["factor"] == 0.25


def test_numbers_among_choices_and_lists_are_set_by_a_try_and_text_stays_text() -> None:
    kept, whole, layers, text = levers.parse_try('kv_cache:2,quantize:4,"dola:[1, 2]",prompt:8')
    assert (kept.settings["bits"], whole.settings["bits"], text.settings["system"]) == (2, 4, "8")
    assert list(layers.settings["layers"]) == [1, 2]
    with pytest.raises(RecipeError, match=r"--try kv_cache:3: kv_cache: `bits`: input should be 2, 4, 8 or 16 \(given '3'\)"):
        levers.parse_try("kv_cache:3")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"dola": {"layers": "sideways"}}, "dola: `layers`: input should be 'low' or 'high', or a valid list (given 'sideways')"),
        ({"beam": {"early_stopping": 3}}, "beam: `early_stopping`: input should be a valid boolean"),
        ({"constraint": {"json_schema": 5}}, "constraint: `json_schema`: input should be a valid dictionary, or a path (given 5)"),
        ({"speculative": {"draft": 5}}, "speculative: `draft`: input should be a valid string (given 5)"),
    ],
)
def test_a_setting_of_several_forms_is_told_once_in_plain_words(entry: dict, told: str) -> None:
    with pytest.raises(RecipeError) as raised:
        levers.parse(entry)
    assert raised.value.what and told in str(raised.value)
    assert "[" not in str(raised.value) and str(raised.value).count("`: ") == 1


def chain(*names: str) -> list[levers.Lever]:
    return [levers.parse(name) for name in names]


def test_stages_have_one_order(demo: Path) -> None:
    levers.check_chain(chain("demo_train", "demo_decode", "demo_wrap"), {"gradients"}, "arm")
    with pytest.raises(RecipeError, match="`demo_train` acts at stage `weights` but comes after a `wrap` lever"):
        levers.check_chain(chain("demo_wrap", "demo_train"), {"gradients"}, "arm")


def test_an_unmet_need_is_refused_and_a_provided_one_is_met(demo: Path) -> None:
    with pytest.raises(RecipeError, match="(?s)`demo_decode` needs trained.*Put `demo_train` before it"):
        levers.check_chain(chain("demo_decode"), {"weights"}, "arm")
    levers.check_chain(chain("demo_train", "demo_decode"), {"gradients"}, "arm")


@pytest.mark.parametrize("names", [("demo_rescale", "demo_train"), ("demo_train", "demo_rescale")])
def test_a_conflict_is_refused_whoever_declares_it(demo: Path, names: tuple[str, str]) -> None:
    with pytest.raises(RecipeError, match="conflicts"):
        levers.check_chain(chain(*names), {"gradients", "weights"}, "arm")


@pytest.mark.parametrize("name", OURS)
def test_each_of_our_levers_says_all_that_a_lever_must(name: str) -> None:
    lever, _ = levers.find(name)
    assert lever.hooks(), "a lever that acts nowhere"
    assert lever.idea and lever.cost and lever.identity is not None
    assert lever.main is None or lever.main in lever.model_fields
    undescribed = [key for key, field in lever.model_fields.items() if not field.description]
    assert not undescribed
    for preset, settings in lever.presets.items():
        levers.make(lever, settings, preset)
    if not isinstance(lever.identity, str) and not any(field.is_required() for field in lever.model_fields.values()):
        levers.make(lever, lever.identity, "identity")


def test_no_lever_of_ours_is_broken() -> None:
    assert not levers.broken()
