"""Recipes: what is read, what is refused, and where the reader is told it lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from third_party import installed, write_demo

from steelyard.core import recipe, recipe_yaml
from steelyard.core.axes import AXES
from steelyard.core.errors import DataError, RecipeError
from steelyard.core.recipe import EndpointSource, ModelSource, NewSource, Recipe


@pytest.fixture(scope="module", autouse=True)
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    site = tmp_path_factory.mktemp("site")
    write_demo(site)
    with installed(site):
        yield


def read(folder: Path, text: str, *overrides: str, name: str = "my.yaml") -> Recipe:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return recipe.read(path, overrides)


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as raised:
        read(folder, text, *overrides)
    return str(raised.value)


WHOLE = """
base: smollm2-135m-instruct
arms:
  smaller: [demo_half]
  polite:  [{demo_wrap: {text: Be kind}}]
  both:    [smaller, polite]
  taught:  {steps: [{demo_train: {data: "generated:x"}}, demo_decode], seeds: [1, 2]}
  other:   {base: hf:org/name, steps: [polite]}
  remote:  {endpoint: {url: "https://host/v1", model: big, key: BIG_KEY}, steps: [polite]}
  fresh:   {new: {mixer: {linear_attention: {}}, width: 256}, steps: [demo_shape, demo_train]}
tasks: [demo_quiz, {demo_survey: {samples_each: 3}}]
axes: [speed, quality]
seed: 7
primary: {smaller: [demo_quiz, quality]}
samples: 20
trials: 2
"""


def test_a_whole_recipe_is_read(tmp_path: Path) -> None:
    it = read(tmp_path, WHOLE)
    assert list(it.arms) == ["base", "smaller", "polite", "both", "taught", "other", "remote", "fresh"]
    assert it.base == it.arms["base"].source == ModelSource(name="smollm2-135m-instruct")
    assert [lever.name for lever in it.arms["both"].levers] == ["demo_rescale", "demo_wrap"]
    assert it.arms["taught"].seeds == (1, 2)
    assert it.arms["other"].source == ModelSource(name="hf:org/name")
    assert it.arms["remote"].source == EndpointSource(url="https://host/v1", model="big", key="BIG_KEY")
    fresh = it.arms["fresh"].source
    assert isinstance(fresh, NewSource) and (fresh.plan.width, fresh.plan.mixer[0].name) == (256, "linear_attention")
    assert [(task.name, task.settings["samples_each"]) for task in it.tasks] == [("demo_quiz", 10), ("demo_survey", 3)]
    assert it.axes == ("quality", "speed")
    assert (it.name, it.seed, it.samples, it.trials) == ("my", 7, 20, 2)
    assert it.primary == {"smaller": ("demo_quiz", "quality")}


def test_the_resolved_recipe_read_again_is_equal(tmp_path: Path) -> None:
    it = read(tmp_path, WHOLE)
    (tmp_path / "elsewhere").mkdir()
    assert read(tmp_path / "elsewhere", it.text(), name="recipe.resolved.yaml") == it
    assert recipe.from_mapping(it.resolved()) == it


def test_the_shortest_recipe_weighs_everything_about_the_base(tmp_path: Path) -> None:
    it = read(tmp_path, "base: smollm2-135m-instruct")
    assert list(it.arms) == ["base"] and it.axes == AXES and it.seed == 0 and it.tasks == ()


def test_steps_change_the_base_and_every_arm_that_starts_from_it(tmp_path: Path) -> None:
    it = read(tmp_path, "base: m\nsteps: [demo_train]\narms: {a: [demo_wrap], b: {base: other, steps: [demo_wrap]}}")
    names = {name: [lever.name for lever in arm.levers] for name, arm in it.arms.items()}
    assert names == {"base": ["demo_train"], "a": ["demo_train", "demo_wrap"], "b": ["demo_wrap"]}
    assert [lever.name for lever in it.steps] == ["demo_train"]
    assert recipe.from_mapping(it.resolved()) == it


def test_an_arm_may_be_the_base_again(tmp_path: Path) -> None:
    it = read(tmp_path, "base: m\narms: {again: []}")
    assert it.arms["again"].levers == () and it.arms["again"].source == it.base


def test_an_arm_of_another_arms_model_inherits_it(tmp_path: Path) -> None:
    it = read(tmp_path, "base: m\narms:\n  other: {base: big, seeds: [5]}\n  kind: [other, demo_wrap]\n  twice: [kind, demo_wrap]")
    assert it.arms["twice"].source == ModelSource(name="big")
    assert it.arms["twice"].seeds == (5,)
    assert [lever.name for lever in it.arms["twice"].levers] == ["demo_wrap", "demo_wrap"]


def test_an_arm_may_be_called_like_a_preset_only_if_it_is_that_preset(tmp_path: Path) -> None:
    it = read(tmp_path, "base: m\narms:\n  demo_half: [{demo_rescale: {factor: 0.5}}]\n  both: [demo_half, demo_wrap]")
    assert it.arms["both"].levers[0] == it.arms["demo_half"].levers[0]
    assert read(tmp_path, "base: m\narms: {demo_half: [demo_half]}").arms["demo_half"].levers == it.arms["demo_half"].levers
    assert "is also a preset" in refusal(tmp_path, "base: m\narms: {demo_half: [{demo_rescale: 3}]}")


def test_words_are_text_and_numbers_are_numbers(tmp_path: Path) -> None:
    plan = "[no, on, 1e-4, 0x10, 0o17, 017, 12:30:45, 2020-01-01, 1_000, ~, true, '3', +2, .5]"
    (tmp_path / "words.yaml").write_text(f"values: {plan}")
    value = recipe_yaml.read(tmp_path / "words.yaml").value["values"]
    assert value == ["no", "on", 1e-4, 16, 15, 17, "12:30:45", "2020-01-01", "1_000", None, True, "3", 2, 0.5]


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    it = read(
        tmp_path,
        """
base: m
arms:
  a: &a [demo_half]
  b: *a
  c: [{demo_train: &t {data: generated:x}}]
  d: [{demo_train: {<<: *t, teacher: big}}]
  e: [{demo_train: {data: generated:y, <<: [*t]}}]
""",
    )
    assert it.arms["a"].levers == it.arms["b"].levers
    assert it.arms["d"].levers[0].settings["data"] == "generated:x"
    assert it.arms["d"].levers[0].settings["teacher"] == "big"
    assert it.arms["e"].levers[0].settings["data"] == "generated:y"


# ---- what is refused, and where -----------------------------------------------------------------------------------------------

REFUSED = [
    ("base: m\nbase: n", "my.yaml:2:1", "given twice"),
    ("base: m\narms:\n  a: [demo_half]\n  a: []", "my.yaml:4:3", "given twice"),
    ("base: m\nsed: 7", "my.yaml:2:1", "Did you mean `seed`"),
    ("base: m\nseed: -1", "my.yaml:2:1", "greater than or equal to 0"),
    ("base: m\nseed: 1.5", "my.yaml:2:1", "integer"),
    ("base: m\nseed: true", "my.yaml:2:1", "integer"),
    ("base: m\nseed: 99999999999999999999999999999", "my.yaml:2:1", "less than or equal"),
    ("base: m\nsamples: 0", "my.yaml:2:1", "greater"),
    ("base: m\naxes: [quality, sped]", "my.yaml:2:17", "Did you mean `speed`"),
    ("base: m\naxes: everything", "my.yaml:2:1", "a list of axes"),
    ("base: m\ntasks: [demo_quizz]", "my.yaml:2:9", "Did you mean `demo_quiz`"),
    ("base: m\ntasks:\n- demo_quiz:\n    samples_eech: 3", "my.yaml:4:5", "Did you mean `samples_each`"),
    ("base: m\ntasks: [demo_quiz, demo_quiz]", "my.yaml:2:20", "twice"),
    ("base: m\ntasks: [{demo_quiz: 3}]", "my.yaml:2:9", "named settings"),
    ("base: m\ntasks: demo_quiz", "my.yaml:2:1", "list"),
    ("base: m\narms:\n  a:\n  - demo_rescale:\n      facto: 2", "my.yaml:5:7", "Did you mean `factor`"),
    ("base: m\narms:\n  a: [demo_haf]", "my.yaml:3:7", "Did you mean `demo_half`"),
    ("base: m\narms:\n  first: []\n  b: [frist]", "my.yaml:4:7", "Did you mean `first`"),
    ("base: m\narms:\n  demo_rescale: [demo_half]", "my.yaml:3:3", "name of a lever"),
    ("base: m\narms:\n  base: [demo_half]", "my.yaml:3:3", "name of the first arm"),
    ("base: m\narms:\n  a/b: []", "my.yaml:3:3", "no name for an arm"),
    ("base: m\narms:\n  a: demo_half", "my.yaml:3:3", "Write [] around it"),
    ("base: m\narms:\n  a:", "my.yaml:3:3", "list of levers"),
    ("base: m\narms:\n  a: {demo_rescale: {factor: 2}}", "my.yaml:3:7", "an arm is a list"),
    ("base: m\narms:\n  a: {bass: x}", "my.yaml:3:7", "Did you mean `base`"),
    ("base: m\narms:\n  a: {base: , steps: []}", "my.yaml:3:7", "model's name"),
    ("base:", "my.yaml:1:1", "model's name"),
    ("base: m\narms:\n  a: {base: x, new: {}}", "my.yaml:3:16", "both say where"),
    ("base: m\narms:\n  a: {steps: [], levers: []}", "my.yaml:3:18", "mean the same"),
    ("base: m\narms:\n  a: {steps: [demo_train], seeds: [1, 1]}", "my.yaml:3:28", "different whole numbers"),
    ("base: m\narms:\n  a: {steps: [demo_train], seeds: []}", "my.yaml:3:28", "different whole numbers"),
    ("base: m\narms:\n  a: []\n  b: [{a: {x: 1}}]", "my.yaml:4:7", "arms take no settings"),
    ("base: m\narms:\n  a: [base]", "my.yaml:3:7", "starts from the base already"),
    ("base: m\narms:\n  a: [a]", "my.yaml:3:3", "a -> a"),
    ("base: m\narms:\n  a: [b]\n  b: [c]\n  c: [a]", "my.yaml:3:3", "a -> b -> c -> a"),
    ("base: m\narms:\n  a: [demo_wrap, demo_train]", "my.yaml:3:3", "comes after a `wrap` lever"),
    ("base: m\narms:\n  a: [demo_decode]", "my.yaml:3:3", "needs trained"),
    ("base: m\narms:\n  a: [demo_rescale, demo_train]", "my.yaml:3:3", "conflicts"),
    ("base: m\narms:\n  a: [demo_wrap]\n  b: [demo_train]\n  c: [a, b]", "my.yaml:5:3", "comes after"),
    ("base: m\narms:\n  a: [demo_shape]", "my.yaml:3:3", "before it has weights"),
    ("base: m\narms:\n  a: {base: x}\n  b: [demo_half, a]", "my.yaml:4:18", "model of its own"),
    ("base: m\narms:\n  a: {endpoint: {url: 'http://h', model: x}, steps: [demo_half]}", "my.yaml:3:3", "an endpoint has no weights"),
    ("base: m\narms:\n  a: {endpoint: {url: 'ftp://h', model: x}}", "my.yaml:3:18", "https://host/v1"),
    ("base: m\narms:\n  a: {endpoint: {url: 'http://h'}}", "my.yaml:3:7", "`model`"),
    ("base: m\narms:\n  a: {endpoint: {url: 'http://h', model: x, temperature: 1}}", "my.yaml:3:45", "unknown key"),
    ("endpoint: {url: 'http://h', model: x}\nsteps: [demo_train]", "my.yaml:2:1", "an endpoint has no weights"),
    ("seed: 1", "my.yaml:1:1", "nothing says what the base is"),
    ("base: {url: x}", "my.yaml:1:1", "model's name"),
    ("base: m\nnew: {}", "my.yaml:2:1", "both say where"),
    ("base: m\nprimary: {a: [demo_quiz, quality]}\ntasks: [demo_quiz]\narms: {b: []}", "my.yaml:2:11", "no arm is called `a`"),
    ("base: m\nprimary: {a: [demo_survey, quality]}\ntasks: [demo_quiz]\narms: {a: []}", "my.yaml:2:11", "not among this recipe's tasks"),
    ("base: m\nprimary: {a: quality}\narms: {a: []}", "my.yaml:2:11", "expected [task, axis]"),
    ("base: m\nprimary: {a: [demo_quiz, speed]}\naxes: [quality]\ntasks: [demo_quiz]\narms: {a: []}", "my.yaml:2:11", "not among the axes"),
    ("", "my.yaml:1:1", "empty"),
    ("# nothing\n", "my.yaml:2:1", "empty"),
    ("- a", "my.yaml:1:1", "a recipe is a mapping"),
    ("base: m\n---\nbase: n", "my.yaml:2:1", "second document"),
    ("base: [", "my.yaml:1:8", "not YAML"),
    ("base: m\n\tseed: 1", "my.yaml:2:1", "not YAML"),
    ("base: 'm", "my.yaml:1:9", "not YAML"),
    ("base: !!python/object/apply:os.system [ls]", "my.yaml:1:7", "tag"),
    ("base: !!str m", "my.yaml:1:7", "tag"),
    ("base: *nobody", "my.yaml:1:7", "nothing is anchored"),
    ("new: &a [*a]", "my.yaml:1:10", "stands inside"),
    ("? [a]\n: b", "my.yaml:1:3", "key must be a word"),
    ("'': b", "my.yaml:1:1", "a key is empty"),
    ("new: {a: .nan}", "my.yaml:1:10", "not a finite number"),
    ("new: {a: 1e999}", "my.yaml:1:10", "not a finite number"),
    ("new: {a: " + "9" * 5000 + "}", "my.yaml:1:10", "5000 characters"),
    ('new: {a: "\\ud800"}', "my.yaml:1:10", "surrogate"),
    ('new: {a: "\\UFFFFFFFF"}', "my.yaml", "not YAML"),
    ("base: a\x07b", "my.yaml:1:8", "U+0007"),
    ("new: " + "[" * 40 + "]" * 40, "my.yaml:1:", "levels deep"),
    ("new: [" + "1," * 30_000 + "]", "my.yaml:1:", "20,000 values"),
]


@pytest.mark.parametrize(("text", "where", "what"), REFUSED, ids=[f"{what[:30]} at {where}" for _, where, what in REFUSED])
def test_what_is_wrong_is_refused_with_its_place(tmp_path: Path, text: str, where: str, what: str) -> None:
    message = refusal(tmp_path, text)
    assert where in message and what in message, message


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    message = refusal(tmp_path, "base: m\nsed: 3\narms:\n  a: [demo_haf]\n  b: [{demo_rescale: {facto: 1}}]\n  c: [a]\ntasks: [demo_quizz]")
    lines = message.splitlines()
    assert "4 things are wrong" in lines[0]
    assert [line.split(" ")[2].removeprefix(str(tmp_path / "my.yaml")) for line in lines[1:]] == [":2:1", ":4:7", ":5:23", ":7:9"]


def test_arms_that_explode_are_refused(tmp_path: Path) -> None:
    arms = "\n".join(f"  a{n}: [a{n - 1}, a{n - 1}]" for n in range(1, 20))
    assert "more than 64 levers" in refusal(tmp_path, f"base: m\narms:\n  a0: [demo_wrap]\n{arms}")
    arms = "\n".join(f"  a{n}: [a{n + 1}]" for n in range(2000))
    assert "deep" in refusal(tmp_path, f"base: m\narms:\n{arms}\n  a2000: []")


def test_a_billion_laughs_are_refused(tmp_path: Path) -> None:
    lines = ["new:", "  a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "aliases counted in full" in refusal(tmp_path, "\n".join(lines))
    deep = "\n".join(["new:", "  a0: &a0 [1]", *(f"  a{n}: &a{n} [*a{n - 1}]" for n in range(1, 60))])
    assert "levels deep" in refusal(tmp_path, deep)


def test_a_huge_file_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RecipeError, match="128 KiB"):
        recipe.read(path)


@pytest.mark.parametrize("name", ["absent.yaml", "folder", "nul\0l.yaml", "x" * 300])
def test_a_file_that_cannot_be_read_is_a_recipe_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RecipeError):
        recipe.read(tmp_path / name)


def test_a_file_that_is_not_utf8_is_told_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("base: m\nname: caf\xe9".encode("latin-1"))
    with pytest.raises(RecipeError, match="latin.yaml:2: the file is not UTF-8"):
        recipe.read(path)
    path.write_bytes("base: m".encode("utf-8-sig"))
    assert recipe.read(path).base == ModelSource(name="m")


def test_a_key_pasted_into_a_recipe_is_never_shown(tmp_path: Path) -> None:
    secret = "sk-verysecret123"
    for endpoint in (f"{{url: https://h, model: x, key: {secret}}}", f"{{url: 'https://me:{secret}@h', model: x}}"):
        message = refusal(tmp_path, f"endpoint: {endpoint}")
        assert secret not in message and "environment variable" in message


# ---- paths --------------------------------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_recipes_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes" / "handbook").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    text = """
base: ./model
arms:
  a: [{demo_wrap: {documents: handbook}}]
  b: [{demo_wrap: {documents: encyclopedia}}]
  c: [{demo_train: {data: ../rows.jsonl, extra: x.txt, teacher: hf:org/name, folders: [p, /q]}}]
tasks: [{demo_quiz: {path: mine.jsonl}}]
"""
    it = read(tmp_path / "recipes", text)
    assert recipe.read(Path("recipes/my.yaml")) == it
    assert it.base == ModelSource(name=str(tmp_path / "recipes" / "model"))
    assert it.arms["a"].levers[0].settings["documents"] == str(tmp_path / "recipes" / "handbook")
    assert it.arms["b"].levers[0].settings["documents"] == "encyclopedia"
    train = it.arms["c"].levers[0].settings
    assert train["data"] == str(tmp_path / "rows.jsonl") and train["extra"] == str(tmp_path / "recipes" / "x.txt")
    assert train["teacher"] == "hf:org/name" and train["folders"] == [str(tmp_path / "recipes" / "p"), "/q"]
    assert it.tasks[0].settings["path"] == str(tmp_path / "recipes" / "mine.jsonl")


def test_a_known_name_is_not_taken_for_a_folder_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "smollm2-135m-instruct").mkdir()
    (tmp_path / "mine").mkdir()
    assert read(tmp_path, "base: smollm2-135m-instruct").base == ModelSource(name="smollm2-135m-instruct")
    assert read(tmp_path, "base: mine").base == ModelSource(name=str(tmp_path / "mine"))
    assert read(tmp_path, "base: org/name").base == ModelSource(name="org/name")


# ---- overrides ----------------------------------------------------------------------------------------------------------------

BASIC = (
    "base: m\nsteps: [{demo_train: {data: generated:x}}]\narms:\n  v1.5: [demo_half]\n  kind: [{demo_wrap: {text: hi}}]\ntasks: [demo_quiz]"
)
STEPPED = "base: m\narms:\n  half: [demo_rescale]\n  kind: [{demo_wrap: {text: hi}}]\ntasks: [demo_quiz]"


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("seed=3", lambda r: r.seed, 3),
        ("base=other", lambda r: r.base.name, "other"),
        ("axes=[speed]", lambda r: r.axes, ("speed",)),
        ("axes=all", lambda r: r.axes, AXES),
        ("tasks=[demo_survey]", lambda r: r.tasks[0].name, "demo_survey"),
        ("tasks.0.demo_quiz.samples_each=3", lambda r: r.tasks[0].settings["samples_each"], 3),
        ("tasks.demo_quiz.samples_each=3", lambda r: r.tasks[0].settings["samples_each"], 3),
        ("arms.half.0.demo_rescale.factor=1e-3", lambda r: r.arms["half"].levers[0].settings["factor"], 1e-3),
        ("arms.half.demo_rescale.note=a=b: c # d", lambda r: r.arms["half"].levers[0].settings["note"], "a=b: c # d"),
        ("arms.half.demo_rescale.note='007'", lambda r: r.arms["half"].levers[0].settings["note"], "007"),
        ('arms.kind.0.demo_wrap.text=""', lambda r: r.arms["kind"].levers[0].settings["text"], ""),
        ("arms.kind.0.demo_wrap=Be brief", lambda r: r.arms["kind"].levers[0].settings["text"], "Be brief"),
        ("arms.new_one=[demo_half, kind]", lambda r: [lever.name for lever in r.arms["new_one"].levers], ["demo_rescale", "demo_wrap"]),
        ("primary.half=[demo_quiz, quality]", lambda r: r.primary, {"half": ("demo_quiz", "quality")}),
        ("samples = 5", lambda r: r.samples, 5),
    ],
)
def test_an_override_changes_one_value(tmp_path: Path, override: str, get, value: object) -> None:
    assert get(read(tmp_path, STEPPED, override)) == value


def test_overrides_reach_steps_and_names_with_dots(tmp_path: Path) -> None:
    text = BASIC.replace("demo_half", "demo_wrap")
    it = read(tmp_path, text, "steps.0.demo_train.data=generated:y", "arms.v1.5.0=kind")
    assert it.steps[0].settings["data"] == "generated:y"
    assert it.arms["v1.5"].levers[-1].settings["text"] == "hi"


def test_an_override_of_one_use_of_an_anchor_leaves_the_other(tmp_path: Path) -> None:
    text = "base: m\narms:\n  a: &a [{demo_wrap: {text: hi}}]\n  b: *a"
    it = read(tmp_path, text, "arms.b.0.demo_wrap.text=bye")
    assert [it.arms[name].levers[0].settings["text"] for name in "ab"] == ["hi", "bye"]


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("seed", "expected key.path=value"),
        ("=3", "expected key.path=value"),
        ("a..b=3", "expected key.path=value"),
        ("sed=3", "Did you mean `seed`"),
        ("arm.half.0=x", "Did you mean `arms`"),
        ("arms.halv.0=demo_half", "Did you mean `half`"),
        ("arms.half.1=demo_half", "has 1 entries"),
        ("arms.half.demo_rescal.factor=1", "Did you mean `demo_rescale`"),
        ("arms.half.demo_rescale.facto=1", "Did you mean `factor`"),
        ("tasks.demo_qiz.path=x", "Did you mean `demo_quiz`"),
        ("base.name=x", "which holds no `name`"),
        ("seed=many", "integer"),
        ("seed=.inf", "finite"),
        ("seed=[1", "not YAML"),
        ("steps.0=demo_train", "no `steps`"),
    ],
)
def test_a_wrong_override_is_refused_by_name(tmp_path: Path, override: str, what: str) -> None:
    message = refusal(tmp_path, STEPPED, override)
    assert what in message and "override" in message, message


# ---- the command line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ('{"messages": [{"role": "user", "content": "Hi"}], "expected": "Hello"}', "chat"),
        ('{"question": "?", "choices": ["a", "b"], "answer": 1}', "choices"),
        ('{"text": "words"}', "bits_per_byte"),
    ],
)
def test_the_rows_say_what_the_data_is_for(tmp_path: Path, row: str, task: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f'\n\ufeff not json\n[]\n{{"other": 1}}\n{row}\n', encoding="utf-8")
    assert recipe.task_for(path) == task


def test_data_of_two_kinds_is_refused_with_the_lines_that_show_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "words"}\r\n{"prompt": "Hi", "expected": "Hello"}\r\n{"text": "more"}\r\n')
    with pytest.raises(DataError, match="several kinds: for `bits_per_byte` from line 1, for `chat` from line 2"):
        recipe.task_for(path)


def test_an_empty_file_and_a_line_in_another_encoding_are_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\n \n")
    with pytest.raises(DataError, match="the file is empty"):
        recipe.task_for(path)
    path.write_bytes(b'{"text": "words"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match="line 2 is not UTF-8"):
        recipe.task_for(path)


def test_data_that_no_row_explains_is_refused_with_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"wording": 1}\nnonsense\n3\n', encoding="utf-8")
    with pytest.raises(DataError, match="(?s)line 1 has only 'wording'.*line 2 is not JSON.*line 3 is not an object"):
        recipe.task_for(path)
    for content in (b"", b"\xff\xfe\x00", b'{"a": ' * 50_000):
        path.write_bytes(content)
        with pytest.raises(DataError):
            recipe.task_for(path)
    with pytest.raises(DataError, match="no such file"):
        recipe.task_for(tmp_path / "absent.jsonl")


def test_the_command_line_makes_one_arm_per_lever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text('{"text": "Some words."}\n')
    tries = ["demo_half,demo_wrap:Be concise", '"demo_wrap:Be concise",demo_rescale:0.25', "demo_wrap"]
    it = recipe.from_command_line("./model", Path("mine.jsonl"), tries, ["seed=4"])
    names = ["base", "demo_half", "demo_wrap-be-concise", "demo_wrap-be-concise-2", "demo_rescale-0.25", "demo_wrap-default"]
    assert list(it.arms) == names
    assert it.name == "mine" and it.seed == 4 and it.base == ModelSource(name=str(tmp_path / "model"))
    assert it.tasks[0].name == "bits_per_byte" and it.tasks[0].settings["path"] == str(tmp_path / "mine.jsonl")
    assert recipe.from_mapping(it.resolved()) == it


def test_the_command_line_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "x"}')
    with pytest.raises(RecipeError, match="needs `--data`"):
        recipe.from_command_line("m", None, ["demo_half"])
    with pytest.raises(RecipeError, match="nothing to try"):
        recipe.from_command_line("m", tmp_path / "d.jsonl", [])
    with pytest.raises(RecipeError, match="Did you mean `demo_half`"):
        recipe.from_command_line("m", tmp_path / "d.jsonl", ["demo_haf"])


# ---- properties ---------------------------------------------------------------------------------------------------------------

WORDS = [
    "base",
    "arms",
    "a",
    "b",
    "tasks",
    "steps",
    "demo_half",
    "demo_wrap",
    "demo_quiz",
    "seed",
    "axes",
    "all",
    "new",
    "endpoint",
    "primary",
]
PIECES = st.sampled_from(
    [*WORDS, *": ,[]{}&*!?|>-'\"%@`#~\n\t=.", "\n  ", ": ", "- ", "<<: ", "&x ", "*x", "1e9", "\x00", "\x85", "\ud7ff", "é"]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=80).map("".join)))
@example("%YAML 9.9\n---\na")
@example("a: !<tag:x> b")
@example('"\\xZZ"')
@example("base: ~nobody/x")
@example('base: "\\0"')
@example("base: m\narms: {a: [{demo_train: {extra: ~nobody/x}}]}")
def test_no_text_makes_reading_fail_in_any_other_way(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        it = recipe.read(path)
    except RecipeError as error:
        assert str(path) in str(error)
    else:
        assert recipe.from_mapping(it.resolved()) == it


TRICKY = ["no", "1e-4", "017", "0x1", "~", "", "<<", "2020-01-01", "12:30", "null", "-", "? a", "\u2028", "\x85", "a: b", "=", "1_0"]
NUMBERS = st.one_of(st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False))
KEYS = st.text(min_size=1, max_size=8).filter(lambda key: key != "<<")
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20), st.sampled_from(TRICKY)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from([*WORDS, "half", "kind", *"0123.=[]{}'\"", "demo_rescale"]), max_size=12).map("".join),
    )
)
@example("arms.half.=1")
@example("arms=3")
@example("arms.half=[" + "[" * 50)
@example("=".join(["a" * 3000] * 3))
def test_no_override_makes_reading_fail_in_any_other_way(tmp_path: Path, override: str) -> None:
    try:
        read(tmp_path, STEPPED, override)
    except RecipeError as error:
        assert str(error)


@settings(max_examples=200, deadline=None)
@given(PLAIN)
def test_what_is_written_is_read_back(value: object) -> None:
    assert recipe_yaml.parse(recipe_yaml.write({"value": value}), "x").value == {"value": value}


NAMES = st.text("abcdé -_.1", min_size=1, max_size=8).filter(lambda name: name == name.strip() and not name.startswith("."))
ENTRY = st.one_of(
    st.just("demo_half"),
    st.builds(lambda f: {"demo_rescale": {"factor": f}}, st.floats(1e-6, 1e6)),
    st.builds(lambda t: {"demo_wrap": {"text": t}}, st.text(max_size=30)),
)
ARM = st.one_of(
    st.lists(ENTRY, max_size=3),
    st.fixed_dictionaries(
        {"steps": st.lists(ENTRY, max_size=2)},
        optional={"base": st.sampled_from(["m", "other", "hf:o/n"]), "seeds": st.lists(st.integers(0, 9), min_size=1, unique=True)},
    ),
    st.fixed_dictionaries({"new": st.dictionaries(st.sampled_from(["depth", "context"]), st.integers(1, 9))}),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {"base": st.sampled_from(["m", "n"]), "arms": st.dictionaries(NAMES, ARM, max_size=4)},
        optional={
            "steps": st.lists(ENTRY, max_size=2),
            "seed": st.integers(0, 2**63 - 1),
            "tasks": st.just([{"demo_quiz": {"samples_each": 3}}]),
            "axes": st.lists(st.sampled_from(AXES), min_size=1, unique=True),
            "samples": st.integers(1, 10**6),
            "name": st.text(max_size=80),
        },
    )
)
def test_every_recipe_survives_being_resolved(tmp_path: Path, value: dict) -> None:
    try:
        it = recipe.from_mapping(value)
    except RecipeError:  # stages out of order
        return
    assert recipe.from_mapping(it.resolved()) == it
    assert read(tmp_path, it.text()) == it
    assert os.path.basename(it.name) == it.name
