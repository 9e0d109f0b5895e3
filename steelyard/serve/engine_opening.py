"""Opening what is served: a model with its levers and its engine, or an encoder.

A directory made here is served as it was weighed: the decode and wrap levers that its `steelyard.json` lists under `serve` are on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.augment.retrieve.opening import open_index
from steelyard.core.errors import ModelFileError, RecipeError, SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.get import home, locate
from steelyard.core.levers import Lever, all_levers, check_chain, parse
from steelyard.core.meters import memory
from steelyard.core.recipe_parts import LOCAL, Arm, ModelSource
from steelyard.core.recipe_paths import rooted
from steelyard.core.references import ModelRef
from steelyard.core.run import Run
from steelyard.generate.constraints.constraint import require_packages
from steelyard.generate.scoring import start_of
from steelyard.generate.spec import EngineSpec
from steelyard.model.families.config import Config
from steelyard.model.families.family import find, find_gguf
from steelyard.model.files.check import RECORD
from steelyard.model.files.gguf_file import GgufFile
from steelyard.model.files.strict_json import read_object
from steelyard.model.load import gguf_config, holds_adapter, load, read_config
from steelyard.model.model import Model
from steelyard.model.released import release
from steelyard.model.template import ChatTemplate
from steelyard.model.tools.offering import forms_of, has_place
from steelyard.serve.engine_calibration import calibrated
from steelyard.serve.engine_hosted import Hosted, can_be_asked, holds_path, stage
from steelyard.serve.engines_beside import pulled, roomy
from steelyard.serve.infilling import infilling
from steelyard.serve.served import ServedInfo, ServedLever
from steelyard.weigh.asking.arms import ArmOpener

Say = Callable[[str], None]


def find_model(asked: Mapping[str, Any], say: Say) -> Path:
    """Where a model lies; what is known and absent is downloaded. A misspelled name is told before anything is opened.

    Raises:
        SteelyardError: it cannot be had.
    """
    try:
        return locate(asked["source"], say)
    except SteelyardError as error:
        raise error.at(f"model `{asked['name']}`") from error


def read_documents(names: Sequence[str], say: Say) -> None:
    """Indexes what clients may search, where that has not been done before: no request is to wait for it.

    Raises:
        SteelyardError: there is nothing of that name, or it cannot be read.
    """
    for name in names:
        try:
            open_index(name, say).close()
        except SteelyardError as error:
            raise error.at(f"documents `{name}`") from error


def open_model(
    asked: Mapping[str, Any], queue: int, documents: Sequence[str], offers: Sequence[str] | None, several: bool, say: Say
) -> Hosted:
    """A model with its levers pulled and its engine running.

    Args:
        offers: the levers a client may ask for, where that is known from before; None looks for them, which imports all there are.
        several: whether other models are served beside it.

    Raises:
        SteelyardError: the model cannot be had, or a lever cannot be pulled; the served name is part of the address.
    """
    name, source = asked["name"], asked["source"]
    path = find_model(asked, say)
    try:
        say(f"opening {name}" if name == source else f"opening {name} ({source})")
        if _is_encoder(path):
            return _open_encoder(asked, path, say)
        saved = _saved_levers(path, source)
        if saved:
            say(f"{name} is served with {', '.join(lever.name for lever in saved)}, as its {RECORD} says")
        given = [parse(entry, where="levers") for entry in asked["levers"]]
        levers = sorted([*saved, *given], key=stage)
        if new := [lever.name for lever in levers if {"build", "train"} & set(lever.hooks())]:
            raise RecipeError(
                f"`{new[0]}` makes a new model", where="levers", do="Make it first with `steelyard make`, then serve its folder."
            )
        check_chain(levers, LOCAL, "levers")
        return _open_talker(asked, path, levers, queue, frozenset(documents), offers, several, say)
    except SteelyardError as error:
        raise error.at(f"model `{name}`") from error


def _open_talker(
    asked: Mapping[str, Any],
    path: Path,
    levers: Sequence[Lever],
    queue: int,
    documents: frozenset[str],
    offers: Sequence[str] | None,
    several: bool,
    say: Say,
) -> Hosted:
    # What weight levers make is kept there for the next time. An opener for each: what one engine lets go of another may need.
    opener = ArmOpener(Run(home() / "serve", device=asked["device"], say=say))
    arm = Arm(name=asked["name"], source=ModelSource(name=asked["source"]), levers=tuple(levers))
    settings = {key: asked[key] for key in ("threads", "dtype", "slots", "context")}
    # The server counts who waits. The engine's own bound lies higher: it sees slots that have just become free only at its next step.
    opened = opener.open(arm, deterministic=False, queue=queue + asked["slots"], **settings)
    if (engine := opened.engine) is None:
        opened.close()
        raise UnsupportedError("an encoder-decoder is not served: it has no engine", where="models", do="Ask it with `steelyard chat`.")
    engine.model.name = asked["name"]  # errors quote it, and no path is to leave the server
    if (template := engine.model.template) is not None:
        engine.model.template = dataclasses.replace(template, where=f"the chat template of {asked['name']}")
    opener.forget()
    release(engine.model, engine.trunk)
    memory.hand_back()
    template = engine.spec.template or engine.model.template
    chat = {"chat"} if template is not None else set()
    if template is not None and takes_turns_in_a_row(template):
        chat.add("turns_in_a_row")
    tools = {"tools"} if has_place(template) else set()
    info = ServedInfo(
        name=asked["name"],
        fingerprint=opened.fingerprint,
        context_length=engine.context,
        capabilities=frozenset(opened.answerer.capabilities | chat | tools | ({"infill"} if infilling(engine.model) else set())),
        created=int(path.stat().st_mtime),
        parents=_parents(engine.model),
        levers=_served_levers(levers, offered(levers, roomy(engine.spec), several) if offers is None else offers),
        slots=engine.spec.slots,
        vocabulary=engine.model.trunk.plan.inputs.vocabulary,
        eos_ids=engine.model.tokenizer.eos_ids if engine.model.tokenizer else (),
        start=engine.model.tokenizer.decode([start_of(engine.model.tokenizer)]) if engine.model.tokenizer else "",
        tool_forms=forms_of(template) if tools else (),
    )
    bound = tuple(lever.bind(opener.references) for lever in levers)
    hosted = Hosted(info, engine.model, engine, opener, bound, documents)
    try:
        hosted.calibrated = calibrated(path, asked["source"], asked.get("calibrations", ()), hosted.wraps, engine, say)
    except SteelyardError:
        opened.close()
        raise
    if hosted.calibrated is not None:
        hosted.info = dataclasses.replace(info, calibration=hosted.calibrated.told())
    return hosted


def takes_turns_in_a_row(template: ChatTemplate) -> bool:
    """Whether a chat template writes two turns of one speaker one after the other: it refuses neither, and both come once and in order."""
    first, second = "The first of two.", "What comes second?"
    try:
        text = template.render([{"role": "user", "content": first}, {"role": "user", "content": second}])
    except SteelyardError:
        return False
    return text.count(first) == text.count(second) == 1 and text.index(first) < text.index(second)


def _open_encoder(asked: Mapping[str, Any], path: Path, say: Say) -> Hosted:
    if asked["levers"]:  # the same are given for all models that are served
        say(f"{asked['name']} turns texts into vectors and answers nothing: levers have no part in that")
    model = dataclasses.replace(
        load(asked["source"], device=asked["device"]), name=asked["name"]
    )  # errors quote it, and no path is to leave the server
    if model.tokenizer is None:
        raise ModelFileError("an encoder without a tokenizer", where=str(path), do="Restore its tokenizer files.")
    info = ServedInfo(
        name=asked["name"],
        fingerprint=digest([model.fingerprint, "embedding"]),
        context_length=model.context_length,
        capabilities=frozenset({"local"}),
        created=int(path.stat().st_mtime),
        parents=_parents(model),
        kind="embedding",
        slots=1,
        vocabulary=model.trunk.plan.inputs.vocabulary,
    )
    return Hosted(info, model)


def _is_encoder(path: Path) -> bool:
    """Whether a model turns texts into vectors and does nothing else. Its config says so; no weight is read."""
    if path.is_dir() and holds_adapter(path):
        return False
    if path.is_dir():
        config = read_config(path)
        family = find(config.get("model_type"), str(path / "config.json"))
    else:
        source = GgufFile(path)
        try:
            family = find_gguf(source.metadata.get("general.architecture"), str(path))
            config = gguf_config(family, source, path)
        finally:
            source.close()
    heads = family.plan(Config(config, str(path))).heads
    return "pool" in heads and "lm" not in heads


def _parents(model: Model) -> tuple[str, ...]:
    parents = model.record.get("parents")
    named = [parent.get("name") for parent in parents if isinstance(parent, dict)] if isinstance(parents, list) else []
    return tuple(str(name) for name in named if name)


def _saved_levers(path: Path, source: str) -> list[Lever]:
    """The decode and wrap levers that a made model is to be served with. Paths they name are relative to its folder.

    Raises:
        ModelFileError: they cannot be understood; or the model is somebody else's and asks for files of this machine.
    """
    if not path.is_dir() or not (path / RECORD).exists():
        return []
    where = str(path / RECORD)
    entries = read_object(path / RECORD).get("serve") or []
    if not isinstance(entries, list):
        raise ModelFileError("`serve` is no list of levers", where=where, do="Make the model again, or leave the key out.")
    levers = [rooted(parse(entry, where=f"{where}: serve"), path) for entry in entries]
    for lever in levers:
        if not set(lever.stages()) <= {"decode", "wrap"}:
            raise ModelFileError(f"`{lever.name}` is none that an answer is given with", where=f"{where}: serve", do="Leave it out.")
        if source.startswith("hf:") and (lever.references() or any(holds_path(getattr(lever, key)) for key in type(lever).model_fields)):
            raise ModelFileError(
                f"a model of others asks for things of this machine: `{lever.name}`",
                where=f"{where}: serve",
                do="Look at the file; if you trust it, serve its folder by its path.",
            )
    return levers


def offered(on: Sequence[Lever], spec: EngineSpec, several: bool) -> list[str]:
    """Names of the levers that a client may ask of a model. Imports all levers, which takes a second or two.

    Args:
        on: those that are pulled on every answer.
        spec: what an engine beside its own is made of.
        several: whether there are other models that a lever could name.
    """
    return [name for name, kind in all_levers().items() if can_be_asked(kind) and _fits(kind, on, spec, several)]


def _fits(kind: type[Lever], on: Sequence[Lever], spec: EngineSpec, several: bool) -> bool:
    """Whether a decode lever can be pulled on this model with its settings as they are; one that can name another model, also where there
    are several. Of what else has to be set only a request can tell."""
    names_model = [kind.model_fields[key] for key, reference in kind.naming().items() if reference is ModelRef]
    if names_model and (several or any(field.is_required() for field in names_model)):
        return several
    required = any(field.is_required() for field in kind.model_fields.values())
    if required or "decode" not in kind.hooks() or any(type(lever) is kind for lever in on):
        return True
    try:
        check_chain(sorted([*on, lever := kind()], key=stage), LOCAL, "levers")
        pulled([lever], spec)
    except SteelyardError:
        return False
    return True


def _served_levers(on: Sequence[Lever], offers: Sequence[str]) -> tuple[ServedLever, ...]:
    pulled = [ServedLever(lever.name, True, lever.name in offers, lever.settings) for lever in on]
    barred = {lever.name for lever in on}
    try:
        require_packages()
    except UnsupportedError:
        barred.add("constraint")
    return (*pulled, *(ServedLever(name, False, True) for name in offers if name not in barred))
