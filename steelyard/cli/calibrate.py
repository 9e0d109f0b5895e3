"""`steelyard calibrate MODEL`: what the model's confidence is worth, measured on judged questions and kept for `serve` and `weigh`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steelyard.cli.completion import lever_names, model_names
from steelyard.cli.output import console, print_json, say_on


def calibrate(
    model: Annotated[str, typer.Argument(help="A model as for `chat`: a got name, a folder or a .gguf file.", autocompletion=model_names)],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the task: answerable=400.")] = None,
    task: Annotated[str, typer.Option(help="Whose questions are asked and judged: facts, arithmetic, chat, ...")] = "facts",
    measure: Annotated[str, typer.Option(help="How confidence is measured: mean_probability, p_true, p_ik, self_check, ...")] = (
        "mean_probability"
    ),
    tries: Annotated[
        list[str] | None,
        typer.Option("--with", help="Levers that the model is served or weighed with: retrieve.", autocompletion=lever_names),
    ] = None,
    alpha: Annotated[float | None, typer.Option(min=0.001, max=0.5, help="For `abstain`: most wrong among what is answered.")] = None,
    delta: Annotated[float, typer.Option(min=0.001, max=0.5, help="Chance that this limit may fail.")] = 0.1,
    device: Annotated[str, typer.Option(help="Where it answers: cpu, cuda, cuda:1.")] = "cpu",
    seed: Annotated[int | None, typer.Option(min=0, help="Of the questions; weigh on another one.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; calibration.json in the model's folder if it is one, else here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON: the calibration.")] = False,
) -> None:
    """Find out what a model's confidence is worth.

    Its answers to judged questions turn its confidence into a chance of being right, for this very model with these levers, on questions
    like these. With --alpha also the threshold below which `abstain` keeps silent, so that at most this share of what is answered is
    wrong, with probability 1 - delta. A stopped call goes on where it was.
    """
    from steelyard.augment.uncertainty.calibration import NAME
    from steelyard.core.get import locate
    from steelyard.core.levers import parse_try
    from steelyard.core.run import Run
    from steelyard.weigh.asking import calibrate as calibrating
    from steelyard.weigh.tasks import registry

    say = say_on(True)
    asked = registry.make(task, _settings(settings or []), "calibrate")
    levers = [lever for text in tries or [] for lever in parse_try(text)]
    place = locate(model, say)
    file = out or (place / NAME if place.is_dir() else Path(NAME))
    run = Run(Path("runs") / f"calibrate-{place.stem}-{task}", calibrating.SEED if seed is None else seed, device, say=say)
    made, judged = calibrating.calibrate(
        model, asked, run.directory, name=measure, levers=levers, seed=run.seed, alpha=alpha, delta=delta, run=run
    )
    made.write(file)
    if as_json:
        return print_json(made.as_dict())
    out_lines = console()
    for line in told(made, judged.left_out, file):
        out_lines.print(line, highlight=False, markup=False, soft_wrap=True)


def told(made: Any, left_out: dict[str, int], file: Path) -> list[str]:
    """What was found, in sentences."""
    quality, limit = made.quality, made.threshold
    lines = [f"{made.n} judged answers of {made.model} to {made.task}, {made.right:.0%} of them right; measured by {made.measure}."]
    lines += [f"Left out: {count} {reason}." for reason, count in left_out.items()]
    if "auroc" in quality:
        lines.append(
            f"It puts a right answer before a wrong one with probability {quality['auroc']:.2f} "
            f"[{quality['auroc_low']:.2f}, {quality['auroc_high']:.2f}] (AUROC; 0.5 is chance)."
        )
    lines.append(
        f"As a chance of being right it has a Brier score of {quality['brier']:.3f}, on answers that were not fitted on; as it was, "
        f"{quality['raw_brier']:.3f}."
    )
    if limit is not None:
        lines.append(
            f"To be wrong in at most {limit.alpha:.0%} of what it answers, with probability {1 - limit.delta:.0%}, it may answer "
            f"{limit.share:.0%} of such questions; of those judged, {limit.wrong:.1%} of what it then answered was wrong."
        )
    return [*lines, f"Written to {file}."]


def _settings(words: list[str]) -> dict[str, Any]:
    """KEY=VALUE as a task's settings; values are read as YAML."""
    import yaml

    from steelyard.core.errors import RecipeError

    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise RecipeError(f"`{word}` is no setting", where="command line", do="Write KEY=VALUE, such as answerable=400.")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"the value of `{key}` cannot be read", where="command line", do="Quote it.") from None
    return found
