"""The command line as a person meets it: what is printed where, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from third_party import installed, write_demo, write_package
from typer.testing import CliRunner, Result

import steelyard
from steelyard.cli.completion import known_names, lever_names, model_names
from steelyard.cli.main import app

VERBS = ("get", "inspect", "chat", "weigh", "report", "make", "calibrate", "levers", "tasks", "detect", "doctor")


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Path]:
    site = tmp_path / "site"
    site.mkdir()
    write_demo(site)
    with installed(site):
        yield site


def run(*arguments: str, **options) -> Result:
    return CliRunner().invoke(app, list(arguments), **options)


def in_a_process(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "steelyard.cli.main", *arguments], capture_output=True, text=True, timeout=240, **options)


def last_json(result: Result) -> dict:
    return json.loads(result.stdout.splitlines()[-1])


# ---- the program itself -------------------------------------------------------------------------------------------------------


def test_help_names_every_verb() -> None:
    result = in_a_process("--help")
    assert result.returncode == 0 and result.stderr == ""
    assert all(f"\n  {verb} " in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0 and "Usage:" in result.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom steelyard.cli.main import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'rich.console', 'scipy', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=240)


def test_the_version_is_told() -> None:
    assert run("--version").stdout == f"steelyard {steelyard.__version__}\n"


def test_a_users_failure_is_one_message_on_standard_error_and_status_2(tmp_path: Path) -> None:
    result = in_a_process("weigh", str(tmp_path / "absent.yaml"))
    assert result.returncode == 2
    assert result.stdout == ""
    assert "absent.yaml: there is no such file" in result.stderr and "Traceback" not in result.stderr


def test_an_unknown_verb_or_option_is_status_2() -> None:
    assert run("wiegh").exit_code == 2
    assert run("levers", "--jsn").exit_code == 2


def test_control_characters_in_a_message_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text('base: m\n"\\e[2J": 1\n')
    result = run("weigh", str(path))
    assert result.exit_code == 2
    assert "\x1b" not in result.output and "[2J" in result.output


def test_a_terminal_without_unicode_gets_its_message_too(tmp_path: Path) -> None:
    path = tmp_path / "foreign.yaml"
    path.write_text("base: m\ncafé→: 1\n", encoding="utf-8")
    result = in_a_process("weigh", str(path), env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.returncode == 2 and "unknown key" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_ends_with_130(tmp_path: Path) -> None:
    stop = "import steelyard.core.recipe as recipe\ndef stop(*_): raise KeyboardInterrupt\nrecipe.read = stop\n"
    code = stop + "from steelyard.cli.main import main\nmain()"
    path = tmp_path / "r.yaml"
    path.write_text("base: m")
    done = subprocess.run([sys.executable, "-c", code, "weigh", str(path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 130 and "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    result = run("get", "encyclopedia", env={"STEELYARD_HOME": str(tmp_path / "home")})
    assert result.exit_code == 2


# ---- levers -------------------------------------------------------------------------------------------------------------------


def test_levers_are_listed_with_stage_maturity_and_evidence(demo: Path) -> None:
    result = run("levers")
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if line.startswith("demo_rescale"))
    assert line.split() == ["demo_rescale", "(demo_half)", "weights", "compress", "experimental", "not", "shown"]
    assert "Multiply every weight by a factor." in result.stdout


def test_a_broken_package_does_not_stop_the_listing(demo: Path) -> None:
    write_package(
        demo, "broken-levers", {"broken_one": "raise RuntimeError('no licence')"}, {"steelyard.levers": {"sad": "broken_one:Thing"}}
    )
    with installed(demo):
        result = run("levers")
        assert result.exit_code == 0
        assert "demo_rescale" in result.stdout and "broken: sad" in result.stdout and "no licence" in result.stdout.replace("\n", " ")
        assert "no licence" in last_json(run("levers", "--json"))["broken"]["sad"]


def test_one_lever_is_shown_in_full(demo: Path) -> None:
    text = " ".join(run("levers", "demo_rescale").stdout.split())
    for part in ("W' = f W", "arXiv:0000.00000", "demo_half = demo_rescale with factor: 0.5", "needs weights", "conflicts demo_train"):
        assert part in text
    assert "factor number 1.0 what weights are multiplied by, no unit" in text


def test_a_preset_is_shown_as_its_lever(demo: Path) -> None:
    facts = last_json(run("levers", "demo_half", "--json"))
    assert facts["name"] == "demo_rescale" and facts["preset"] == {"demo_half": {"factor": 0.5}}


def test_one_lever_as_json_has_its_settings(demo: Path) -> None:
    facts = last_json(run("levers", "demo_train", "--json"))
    settings = {setting["name"]: setting for setting in facts["settings"]}
    assert settings["data"] == {"name": "data", "type": "text", "required": False, "default": "generated:demo", "description": "rows"}
    assert settings["extra"]["type"] == "Path | none" and settings["folders"]["type"] == "list of Path"
    assert facts["stages"] == ["weights"] and facts["needs"] == ["gradients"]


def test_an_unknown_lever_names_the_nearest(demo: Path) -> None:
    result = run("levers", "demo_resale")
    assert result.exit_code == 2 and "Did you mean `demo_rescale`?" in result.stderr


def test_tasks_are_listed_and_one_told_in_full() -> None:
    listed = " ".join(run("tasks").stdout.split())
    assert "gsm8k GSM8K: grade-school word problems" in listed and "format-tested" in listed
    told = " ".join(run("tasks", "gsm8k").stdout.split())
    assert "#### 72" in told and "right (quality, share, higher is better)" in told and "longest answer, tokens" in told
    assert {"name": "path", "required": True}.items() <= last_json(run("tasks", "gsm8k", "--json"))["settings"][0].items()
    wrong = run("tasks", "gsm9k")
    assert wrong.exit_code == 2 and "gsm8k" in wrong.stderr


def test_all_levers_as_json_are_one_line() -> None:
    document = last_json(run("levers", "--json"))
    assert {"quantize", "sft", "prompt"} <= {lever["name"] for lever in document["levers"]} | set(document["broken"])


# ---- get, doctor, inspect -----------------------------------------------------------------------------------------------------


def test_get_without_a_name_lists_what_is_known(tmp_path: Path) -> None:
    result = run("get", "--json", env={"STEELYARD_HOME": str(tmp_path)})
    known = {row["name"]: row for row in last_json(result)["known"]}
    assert known["smollm2-135m-instruct"]["got"] is False and known["encyclopedia"]["kind"] == "corpus"
    assert "smollm2-135m-instruct" in run("get", env={"STEELYARD_HOME": str(tmp_path)}).stdout


def test_get_of_an_unknown_name_names_the_nearest() -> None:
    result = run("get", "smollm2-135m-instrukt")
    assert result.exit_code == 2 and "smollm2-135m-instruct" in result.stderr


def test_get_tells_where_a_model_is(smollm: Path) -> None:
    told = last_json(run("get", "smollm2-135m-instruct", "--json"))
    assert told["path"] == str(smollm) and told["bytes"] == smollm.stat().st_size


def test_the_doctor_looks_at_everything_and_says_what_to_do(tmp_path: Path) -> None:
    result = run("doctor", "--json", env={"STEELYARD_HOME": str(tmp_path)})
    document = last_json(result)
    checks = {check["name"]: check for check in document["checks"]}
    assert {"python", "core packages", "processor", "torch", "threads", "kernels", "memory", "store", "model", "energy"} <= set(checks)
    assert checks["model"]["do"] == "Run: steelyard get smollm2-135m-instruct"
    assert document["machine"]["cores"] >= 1
    assert result.exit_code == (1 if any(check["state"] == "bad" for check in document["checks"]) else 0)


def test_the_doctor_names_a_broken_lever_and_ends_with_1(demo: Path) -> None:
    write_package(demo, "broken-levers", {"broken_two": "import nothing_at_all"}, {"steelyard.levers": {"sad": "broken_two:Thing"}})
    with installed(demo):
        result = run("doctor")
        assert result.exit_code == 1
        assert "nothing_at_all" in result.stdout


def test_the_doctor_says_when_the_store_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    checks = last_json(run("doctor", "--json", env={"STEELYARD_HOME": str(file / "home")}))["checks"]
    assert next(check for check in checks if check["name"] == "store")["state"] == "bad"


def test_inspect_tells_what_a_model_is(smollm: Path) -> None:
    document = last_json(run("inspect", str(smollm), "--json"))
    assert "llama" in json.dumps(document)
    assert run("inspect", str(smollm)).exit_code == 0


def test_each_problem_that_inspect_finds_stands_on_a_line_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.model import inspect as inspecting

    monkeypatch.setattr(inspecting, "inspect", lambda path, check: {"heads": ["lm", "pool"], "problems": ["one is bad", "two is worse"]})
    found = run("inspect", str(tmp_path), "--check")
    assert found.exit_code == 1 and found.stdout.splitlines() == ["heads: lm, pool", "problems: ", "  - one is bad", "  - two is worse"]


def test_inspect_of_nothing_is_refused(tmp_path: Path) -> None:
    assert run("inspect", str(tmp_path / "absent")).exit_code == 2


# ---- weigh and make: what they ask for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing says what to weigh"),
        (["seed=3"], "nothing says what to weigh"),
        (["--base", "m"], "needs `--data`"),
        (["--base", "m", "--data", "absent.jsonl", "--try", "demo_half"], "absent.jsonl"),
        (["--base", "m", "--data", "rows.jsonl"], "nothing to try"),
        (["--base", "m", "--data", "rows.jsonl", "--try", "demo_haf"], "Did you mean `demo_half`"),
        (["--base", "m", "--data", "rows.jsonl", "--try", 'demo_wrap:"open'], "never closed"),
        (["--base", "m", "--data", "rows.jsonl", "--try", "demo_half", "sed=3"], "Did you mean `seed`"),
        (["recipe.yaml", "--base", "m"], "both say what to weigh"),
        (["recipe.yaml", "sed=3"], "Did you mean `seed`"),
        (["recipe.yaml", "seed"], "expected key.path=value"),
    ],
)
def test_weigh_says_what_it_lacks(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("base: m\narms: {half: [demo_half]}\ntasks: [demo_quiz]\n")
    Path("rows.jsonl").write_text('{"text": "Some words."}\n')
    result = run("weigh", *arguments)
    assert result.exit_code == 2 and message in result.stderr


def test_make_refuses_a_recipe_without_steps(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("base: m\n")
    result = run("make", "recipe.yaml", "-o", "out")
    assert result.exit_code == 2 and "nothing to make" in result.stderr


# ---- chat ---------------------------------------------------------------------------------------------------------------------


def test_chat_answers_one_question_per_line_from_a_pipe(smollm: Path) -> None:
    result = run("chat", str(smollm), "--max-tokens", "8", input="What is the capital of France?\n\nAnd of Italy?\n")
    assert result.exit_code == 0, result.output
    assert len([line for line in result.stdout.splitlines() if line.strip()]) >= 2
    assert "Paris" in result.stdout
    assert result.stderr.count("tokens/s") == 2


def test_chat_with_json_gives_one_document_a_question_also_where_it_could_not_answer(smollm: Path) -> None:
    result = run("chat", str(smollm), "--json", "--max-tokens", "8", input="What is the capital of France?\n" + "word " * 20_000 + "\n")
    answered, refused = map(json.loads, result.stdout.splitlines())
    assert "Paris" in answered["text"] and answered["failure"] is None and answered["usage"]["completion_tokens"] <= 8
    assert refused["reason"] == "error" and "reads at most" in refused["failure"] and result.exit_code == 2


def test_chat_knows_its_commands_and_leaves_at_exit(smollm: Path) -> None:
    result = run("chat", str(smollm), "--max-tokens", "2", input="/reset\n/what\n/exit\nnever asked\n")
    assert result.exit_code == 0 and result.stdout == ""
    assert "begins anew" in result.stderr and "no command /what" in result.stderr


def test_chat_refuses_a_question_longer_than_the_context_and_goes_on(smollm: Path) -> None:
    result = run("chat", str(smollm), "--max-tokens", "4", input="word " * 20_000 + "\nWhat is the capital of France?\n")
    assert result.exit_code == 2
    assert "No answer" in result.stderr and "tokens/s" in result.stderr


def test_chat_does_not_train(demo: Path) -> None:
    result = run("chat", "m", "--try", "demo_train", input="hello\n")
    assert result.exit_code == 2 and "steelyard make" in result.stderr


def test_a_stored_result_shows_its_interval_beside_the_difference_with_unit_and_n() -> None:
    from steelyard.cli.levers import _result

    cell = {"report": "quantize", "task": "", "metric": "weights", "unit": "MB", "base": 326.0, "value": 220.0, "difference": -106.0}
    counted = cell | {"low": -106.0, "high": -106.0, "n": 1, "verdict": "better"}
    assert _result(counted) == "quantize: weights 326 -> 220 MB, difference -106, n = 1: better"
    drawn = counted | {"task": "facts", "low": -110.0, "high": -102.0}
    assert _result(drawn) == "quantize: facts · weights 326 -> 220 MB, difference -106 [-110, -102], n = 1: better"
    claimed = counted | {"claim": "weights shrink", "holds": False}
    assert _result(claimed).startswith("quantize: weights shrink (not borne out): weights 326 -> 220 MB")


def test_a_card_says_what_each_figure_was_to_show_and_what_to_mind() -> None:
    shown = " ".join(run("levers", "planted_defect").stdout.split())
    assert "is found to be worse: facts" in shown and "wrong template" in shown and "scrambled" in shown and "No primary" not in shown
    facts = last_json(run("levers", "prompt_lookup", "--json"))
    assert all(row["claim"] and row["holds"] for row in facts["results"]) and isinstance(facts["notes"], list)


def test_a_technique_that_is_part_of_a_lever_leads_to_it() -> None:
    result = run("levers", "lora")
    assert result.exit_code == 2 and "`sft` speaks of it" in result.stderr
    assert "Did you mean `quantize`" in run("levers", "quantise").stderr


def test_a_card_without_a_kept_result_says_so(demo: Path) -> None:
    assert "no result is kept here" in run("levers", "demo_rescale").stdout or "not shown" in run("levers", "demo_rescale").stdout


def test_a_lever_is_not_listed_with_a_preset_that_another_had_first(tmp_path: Path) -> None:
    write_demo(tmp_path)
    source = (tmp_path / "demo_levers.py").read_text().replace("demo_half", "int8")
    (tmp_path / "demo_levers.py").write_text(source)
    with installed(tmp_path):
        rows = {row["name"]: row for row in last_json(run("levers", "--json"))["levers"]}
        assert rows["demo_rescale"]["presets"] == {} and "int8" in rows["quantize"]["presets"]


# ---- completion and the package -----------------------------------------------------------------------------------------------


def test_the_shell_completes_levers_and_models(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    (tmp_path / "small.gguf").write_bytes(b"")
    assert "quantize" in lever_names("quan") and lever_names("int8,demo_re") == ["int8,demo_rescale"]
    assert lever_names("demo_ha") == ["demo_half"] and lever_names("prompt,int") == ["prompt,int4", "prompt,int8"]
    assert known_names("ency") == ["encyclopedia"]
    assert model_names("smol") == ["smollm2-135m-instruct"]
    assert model_names("small") == ["small/", "small.gguf"]
    assert model_names("/ab*") == []


def test_the_completion_script_is_shown() -> None:
    environment = {**os.environ, "_STEELYARD_COMPLETE": "complete_bash", "COMP_WORDS": "steelyard levers quan", "COMP_CWORD": "2"}
    code = "from steelyard.cli.main import main; import sys; sys.argv = ['steelyard']; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == ["quantize"]


def test_the_package_offers_its_names_without_importing_them() -> None:
    code = (
        "import sys, steelyard as sy\n"
        "assert not {'torch', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert set(sy.__all__) <= set(dir(sy))\n"
        "assert issubclass(sy.SteelyardError, Exception) and 'torch' not in sys.modules\n"
        "import steelyard.weigh.records\n"
        "assert callable(sy.weigh)\n"
        "try: sy.nothing\nexcept AttributeError as error: assert 'nothing' in str(error)\n"
        "else: raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def test_the_package_lists_its_levers(demo: Path) -> None:
    assert "demo_rescale" in steelyard.levers() and issubclass(steelyard.levers()["demo_rescale"], steelyard.Lever)
