"""A form's own schema as the constraint makes every finished answer valid; another form's makes it another form's answer."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding, compared, counted
from steelyard.core.protocols import AnswerSettings
from steelyard.core.seeds import derive
from steelyard.data.checks.json_answers import find_json
from steelyard.data.generated.forms import FORMS, Form
from steelyard.data.generated.names import Names
from steelyard.generate.constraints.constraint import Constraint
from steelyard.generate.engine import Completion, Engine
from steelyard.generate.spec import EngineSpec
from steelyard.model.load import load
from steelyard.weigh.tasks.json_forms import FIELDS, VALID, score_form

TASK = "forms of three fields"


def form_of(rng: random.Random, title: str, fields: int = 3) -> Form:
    """A form about `title` with its first fields, so that many forms have one schema."""
    names, chosen = Names(rng), FORMS["test"][title][:fields]
    answer = {field.key: field.draw(rng, names) for field in chosen}
    return Form(title, " ".join(field.say(answer[field.key]) for field in chosen), chosen, answer)


def scored(forms: Sequence[Form], answers: Sequence[Completion], metric: str) -> list[float]:
    """One of the task's metrics for each answer, by the form it was asked to fill in."""
    return [score_form(answer.text, form.answer, form.schema)[metric] or 0.0 for form, answer in zip(forms, answers, strict=True)]


def right_keys(form: Form, answer: Completion) -> bool:
    found = find_json(answer.text)
    return found is not None and isinstance(found.value, dict) and found.value.keys() == form.answer.keys()


def run(bench: Bench) -> Finding:
    forms = [form_of(random.Random(derive(bench.seed, "form", number)), "hotel stay") for number in range(bench.pick(40, 2))]
    other = form_of(random.Random(0), "ferry crossing")
    own, foreign = Constraint(json_schema=dict(forms[0].schema)), Constraint(json_schema=dict(other.schema))
    spec = EngineSpec(load(MODEL), deterministic=True, slots=4, context=512)
    prompts = [[{"role": "user", "content": form.request}] for form in forms]
    answers: dict[str, list[Completion]] = {}
    for name, built in {"base": spec, "constraint": own.decode(spec), "elsewhere": foreign.decode(spec)}.items():
        with Engine.from_spec(built) as engine:
            answers[name] = engine.generate(prompts, settings=AnswerSettings(max_tokens=bench.pick(96, 48)))
        bench.say(f"{name}: {len(forms)} answers, {sum(scored(forms, answers[name], 'valid')):g} valid")
    ended = [answer for answer in answers["constraint"] if answer.finish_reason == "stop"]
    matching = sum(list(json.loads(answer.text)) == list(forms[0].answer) for answer in ended)
    valid = {name: scored(forms, each, "valid") for name, each in answers.items()}
    filled = {name: scored(forms, each, "fields") for name, each in answers.items()}
    alike = sum(right_keys(form, answer) for form, answer in zip(forms, answers["elsewhere"], strict=True))
    return Finding(
        [
            Claim("more answers are valid", compared("constraint", TASK, VALID, valid["base"], valid["constraint"]), ("better",)),
            Claim(
                "every answer that came to its end has the form's keys in their order",
                counted("constraint", TASK, "valid when ended", matching, len(ended), "identical" if matching == len(ended) else "worse"),
                ("identical",),
            ),
            Claim(
                "another form's schema never gives this form's keys",
                counted("elsewhere", TASK, "right keys", alike, len(forms), "better" if alike else "identical", base=0.0),
                ("identical",),
                control=True,
            ),
            Claim(
                "another form's schema fills in no more fields rightly",
                compared("elsewhere", TASK, FIELDS, filled["base"], filled["elsewhere"]),
                ("floor", "identical", "equivalent", "underpowered", "worse"),
                control=True,
            ),
        ],
        {"constraint": [own]},
        [
            f"{len(forms) - len(ended)} of {len(forms)} constrained answers were cut off by the limit of tokens; they count as not valid.",
            "Share of fields filled in rightly: " + ", ".join(f"{name} {sum(each) / len(each):.2f}" for name, each in filled.items()) + ".",
        ],
    )


EXPERIMENT = Experiment(
    "constraint",
    "constraint",
    "A form's schema as the constraint makes every answer that comes to its end valid.",
    "Another form's schema must not give the right keys, nor more right fields.",
    "real model",
    run,
    needs=("smollm",),
)
