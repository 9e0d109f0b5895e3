"""Writes tests/parity/bfcl_verdicts.json: what the checker of bfcl-eval says of made-up calls.

Run with the package on the path: `pip install --no-deps --target FOLDER bfcl-eval; PYTHONPATH=FOLDER python tests/parity/bfcl_verdicts.py`.
Its table of models and its readers of Java and JavaScript want dozens of further packages and are not asked here; they are left out.
"""

import importlib.metadata
import json
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from made_up_calls import made_up

OUT = Path(__file__).with_suffix(".json")
COUNT, SEED = 1200, 77


def left_out(name: str, **content: object) -> None:
    """A module of the package that is not needed."""
    sys.modules[f"bfcl_eval.{name}"] = module = types.ModuleType(name)
    module.__dict__.update(content)


def main() -> None:
    left_out("constants.model_config", MODEL_CONFIG_MAPPING={"any": types.SimpleNamespace(underscore_to_dot=False)})
    for language in ("java", "js"):
        left_out(f"eval_checker.ast_eval.type_convertor.{language}_type_converter", **{f"{language}_type_converter": None})
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    found = ""
    for case in made_up(COUNT, SEED):
        calls = [{name: json.loads(arguments)} for name, arguments in case["calls"]]
        try:
            said = ast_checker(case["function"], calls, case["answer"], Language.PYTHON, case["category"], "any")["valid"]
            found += "x" if said else "."
        except (AttributeError, TypeError, KeyError):  # it stops at values it does not expect
            found += "!"
    version = importlib.metadata.version("bfcl-eval")
    made = {"made_by": "python tests/parity/bfcl_verdicts.py", "bfcl_eval": version, "count": COUNT, "seed": SEED, "right": found}
    OUT.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


main()
