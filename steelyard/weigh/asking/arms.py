"""From a recipe's arm to something that can be weighed.

The way is: source -> weight levers (made once, kept under `made/` in the run's directory, and always weighed as they read back
from disk) -> engine with the decode levers -> answerer with the wrap levers. Models with the same source are loaded once.

What an arm *is* is a Merkle fingerprint: the engine digests weights, plan, tokenizer, template, numerics and decode levers; each
wrapper digests its settings and what it wraps; the digest over all of them names the arm's records. Raw text is scored by the
engine below the wraps, so arms that differ only in wraps share those records.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from steelyard.augment.answerers import EndpointAnswerer, LocalAnswerer
from steelyard.augment.endpoint_days import first_asked
from steelyard.augment.pair_answerer import PairAnswerer, answerer_for
from steelyard.augment.spending import Spending
from steelyard.core.asynchrony import run_to_end
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.get import locate
from steelyard.core.levers import Lever
from steelyard.core.meters.money import per_hour, prices
from steelyard.core.protocols import Answerer, Score
from steelyard.core.recipe import Arm, EndpointSource, ModelSource, NewSource
from steelyard.core.references import AnswererRef, IndexRef, ModelRef, Reference
from steelyard.core.run import Run
from steelyard.core.threads import apart
from steelyard.generate.engine import Engine
from steelyard.generate.numerics import stays_stored
from steelyard.generate.offload import Offload, kept
from steelyard.generate.spec import EngineSpec, native_type
from steelyard.model.linears.lora import branches, merge
from steelyard.model.load import STORED, device_of, load
from steelyard.model.model import Model
from steelyard.train.pretrain.new import new_model
from steelyard.train.steps import pull, weight_levers
from steelyard.weigh.asking.trainings import trainings_of
from steelyard.weigh.report.report import Training
from steelyard.weigh.tasks.task import Output

SLOTS = 8


@dataclass
class OpenArm:
    """An arm that is ready to answer.

    Attributes:
        name: as in the recipe.
        answerer: with all levers pulled.
        fingerprint: digest of everything that can change an answer.
        slots: requests it works on at once.
        read: log-probability of raw texts, each after another that does not count (or ""), below the wraps; None where there is no
            engine. With `cut=True` the beginnings of texts that are too long are left out.
        roll: log-probability of raw texts of any length, in windows; None where there is no engine.
        read_fingerprint: what names the records of raw texts.
        kernels: what multiplied.
        parameters: number of weights, where known.
        weight_bytes: bytes of the weights as the engine holds them, where known.
        cost: seconds of making and loading.
        trainings: the training that made it from nothing, where scaling laws can use it.
        engine: the engine underneath, or None for an endpoint and for an encoder-decoder.
        templated: whether what it is told passes through a template that could be a wrong one.
        goes_on: whether it goes on with raw text although there is no engine here.
        ahead: requests put to it per slot: while one ends, the next is already waiting.
        ask: puts a sample (with the recipe's seed and the trial) to the arm where it answers elsewhere as a whole; None here.
        learn: finds out whether it tells log-probabilities of given texts, where that is not known yet.
        closing: ends it and frees its memory.
    """

    name: str
    answerer: Answerer
    fingerprint: str
    slots: int = SLOTS
    read: Callable[..., list[Score]] | None = None
    roll: Callable[[Sequence[str]], list[Score]] | None = None
    read_fingerprint: str = ""
    kernels: str = ""
    parameters: int | None = None
    weight_bytes: int | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    trainings: list[Training] = field(default_factory=list)
    engine: Engine | None = None
    templated: bool = True
    goes_on: bool = False
    ahead: int = 2
    learn: Callable[[], None] = lambda: None
    ask: Callable[..., Awaitable[Output]] | None = None
    closing: Callable[[], None] = lambda: None

    def close(self) -> None:
        self.closing()


class Opener(Protocol):
    """Opens arms one at a time."""

    def find(self, arm: Arm) -> None:
        """Raises for what an arm names and nothing has: a misspelled model is told before anything runs."""
        ...

    def open(self, arm: Arm, seed: int | None = None, *, deterministic: bool = True) -> OpenArm:
        """The arm, made with one training seed (None = the run's)."""
        ...

    def close(self) -> None: ...


class References:
    """Turns references into what they name. The same name is the same object; engines opened for it are closed with it.

    Args:
        say: receives lines for a person: an index is being built.
        device: where models come to lie.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None, device: str = "cpu") -> None:
        self._say, self._device = say, device
        self._found: dict[Reference, Any] = {}
        self._engines: list[Engine] = []

    def __call__(self, reference: Reference) -> Any:
        if reference not in self._found:
            self._found[reference] = self._open(reference)
        return self._found[reference]

    def find(self, reference: Reference) -> None:
        """Sees that what a reference names is there, without opening it."""
        match reference:
            case ModelRef() | AnswererRef():
                locate(reference.name, self._say)
            case IndexRef():
                from steelyard.augment.retrieve.opening import documents_of  # only arms that retrieve need it

                documents_of(reference.name, self._say)

    def _open(self, reference: Reference) -> Any:
        match reference:
            case ModelRef():
                return load(reference.name, device=self._device)
            case IndexRef():
                from steelyard.augment.retrieve.opening import open_index  # only arms that retrieve need it

                return open_index(reference.name, self._say)
            case AnswererRef():
                self._engines.append(Engine(self(ModelRef(reference.name)), deterministic=True))
                return LocalAnswerer(self._engines[-1])
        raise UnsupportedError(f"nothing here provides the {reference.kind} `{reference.name}`", do="Leave the lever that asks for it out.")

    def close(self) -> None:
        for engine in self._engines:
            engine.close()
        self._found.clear()
        self._engines.clear()


class ArmOpener:
    """Opens the arms of one run.

    Args:
        run: its directory keeps what weight levers made; its seed is theirs; on its device models are trained and answer.

    Raises:
        UnsupportedError: there is no such device.
    """

    def __init__(self, run: Run):
        self.device = device_of(run.device)
        self.references = References(run.say, run.device)
        self.run = dataclasses.replace(run, resolve=self.references)
        self._models: dict[tuple[str, Offload | None, bool], Model] = {}

    def find(self, arm: Arm) -> None:
        """Sees that the models and documents an arm names are there; what is known and absent is downloaded now."""
        try:
            if isinstance(arm.source, ModelSource):
                locate(arm.source.name, self.run.say)
            for lever in arm.levers:
                for reference in lever.references().values():
                    self.references.find(reference)
        except SteelyardError as error:
            raise error.at(f"arm `{arm.name}`") from error

    def open(self, arm: Arm, seed: int | None = None, *, deterministic: bool = True, **settings: Any) -> OpenArm:
        """Makes, loads and starts an arm; `settings` are further ones of its engine (`EngineSpec`).

        Raises:
            SteelyardError: its model, a lever or a reference cannot be had; the arm is named.
        """
        engine: Engine | None = None
        try:
            levers = [lever.bind(self.references) for lever in arm.levers]
            if isinstance(arm.source, EndpointSource):
                return _remote(arm, arm.source, levers, self.run.directory)
            begun = time.perf_counter()
            model = self._weights(arm, levers, self.run.seed if seed is None else seed)
            if (pairs := answerer_for(model, _inside(levers))) is not None:
                return _of_pairs(arm.name, pairs, levers, time.perf_counter() - begun)
            settings = {"slots": SLOTS, "folder": self.run.directory / "fitted"} | settings
            spec = EngineSpec(model, deterministic=deterministic, **settings)
            for lever in levers:
                spec = getattr(lever, "decode", lambda spec: spec)(spec)
            engine = Engine.from_spec(spec)
            opened = _wrapped(arm.name, LocalAnswerer(engine), levers)
        except SteelyardError as error:
            if engine is not None:
                engine.close()
            raise error.at(f"arm `{arm.name}`") from error
        return dataclasses.replace(
            opened,
            slots=spec.slots,
            read=engine.score,
            roll=engine.score_rolling,
            read_fingerprint=engine.fingerprint,
            kernels=", ".join(f"{key} {value}" for key, value in spec.numerics.items()),
            parameters=model.trunk.parameter_count(),
            weight_bytes=engine.trunk.weight_bytes(),
            cost={"load_seconds": round(time.perf_counter() - begun, 3), **training_cost(model)},
            trainings=trainings_of(arm, model, self.run.seed if seed is None else seed),
            engine=engine,
            closing=engine.close,
        )

    def close(self) -> None:
        """Lets go of models and references."""
        self.references.close()
        self.forget()

    def forget(self) -> None:
        """Lets go of models, where no further arm is to be opened; what levers refer to stays."""
        self._models.clear()

    def _base(self, arm: Arm, seed: int, streamed: Offload | None = None, stored: bool = False) -> Model:
        if isinstance(arm.source, NewSource):
            made = new_model(arm.source.shaped(arm.levers), dataclasses.replace(self.run, seed=seed))
            return made.with_trunk(made.trunk.to(self.device))
        assert isinstance(arm.source, ModelSource)
        key = (arm.source.name, streamed, stored)
        if key not in self._models:
            self._models = {}  # one source at a time: memory
            self._models[key] = self._opened(arm.source.name, streamed, STORED if stored else "float32")
        return self._models[key]

    def _weights(self, arm: Arm, levers: Sequence[Lever], seed: int) -> Model:
        """The model after all weight levers; made once, then read from the run's directory."""
        pulled, streamed = weight_levers(levers), kept(levers)
        base = self._base(arm, seed, None if pulled else streamed, stays_stored(levers) and not pulled)
        if not pulled:
            return base
        key = digest([base.fingerprint, [lever.fingerprint for lever in pulled], seed if is_trained(arm) else None])
        place = self.run.directory / "made" / key
        if not (place / "model").exists():
            begun = time.perf_counter()
            self.run.say(f"{arm.name}: making it with {', '.join(lever.name for lever in pulled)}")
            if not apart(lambda: self._made(pulled, base, place, seed)):
                return base
            self.run.log(f"{arm.name}: made in {time.perf_counter() - begun:.1f} s")
        return self._opened(str(place / "model"), streamed)

    def _opened(self, name: str, streamed: Offload | None, dtype: str = "float32") -> Model:
        """A model in memory; or, where an arm streams its blocks, with these on disk in the type they are multiplied in."""
        if streamed is None:
            return load(name, dtype, device=self.run.device)
        return load(name, native_type(self.device), streamed.keep, streamed.folder, self.run.device)

    def _made(self, levers: Sequence[Lever], base: Model, place: Path, seed: int) -> bool:
        """Pulls weight levers and saves what they make; whether they made anything."""
        made = pull(levers, base, dataclasses.replace(self.run, directory=place, seed=seed))
        if made is base:
            return False
        # An adapter kept apart is weighed merged: the same function up to rounding.
        (made.with_trunk(merge(made.trunk)) if branches(made.trunk) else made).save(place / "model")
        return True


def training_cost(model: Model) -> dict[str, Any]:
    """What its trainings used, as their records say: seconds in steps, tokens read, operations, joules and where these are from, and rent.

    Energy is told only where every training's record has it; rent where every record has the machine, and the price table knows it.
    """
    results = [entry.get("result", {}) for entry in model.record.get("training", [])]
    units = ("seconds", "tokens", "flops")
    counted = bool(results) and all(result.get("energy_source") for result in results)
    units += ("joules_low", "joules_high") if counted else ()
    totals = {unit: sum(result.get(unit) or 0 for result in results) for unit in units}
    cost: dict[str, Any] = {f"training_{unit}": _rounded(total) for unit, total in totals.items() if total}
    sources = dict.fromkeys(part for result in results for part in str(result.get("energy_source", "")).split("+"))
    return cost | _rent(results) | ({"training_energy_source": "+".join(sources)} if counted else {})


def _rent(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the machines cost while these trainings ran, by today's price table; {} where one of them is not known."""
    table = prices()
    ends = [0.0, 0.0]
    for result in results:
        gpus = [{"name": name} for name in result.get("gpus") or ()]
        hourly = per_hour(table, result.get("cores") or 0, gpus) if result.get("machines") else None
        if hourly is None:
            return {}
        hours = result["machines"] * result["wall_seconds"] / 3600
        ends = [end + price * hours for end, price in zip(ends, hourly, strict=True)]
    if not results:
        return {}
    return {"training_money_low": _rounded(ends[0]), "training_money_high": _rounded(ends[1]), "training_currency": table.currency}


def _rounded(value: float) -> float:
    """To thousandths, or four digits of what is less."""
    return round(value, 3) if abs(value) >= 1 else float(f"{value:.4g}")


def added_costs(one: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The costs of an arm under several training seeds, added up; energy and rent only where each of them was counted."""
    kept = {key: value for key, value in one.items() if key in more or not key.startswith(("training_joules", "training_money"))}
    out: dict[str, Any] = {key: _rounded(value + more.get(key, 0.0)) for key, value in kept.items() if isinstance(value, int | float)}
    out |= {"training_currency": kept["training_currency"]} if "training_money_low" in out else {}
    sources = [cost["training_energy_source"] for cost in (one, more) if cost.get("training_energy_source")]
    return out | ({"training_energy_source": "+".join(dict.fromkeys("+".join(sources).split("+")))} if sources else {})


def is_trained(arm: Arm) -> bool:
    """Whether another training seed would make another arm."""
    return any("train" in lever.hooks() for lever in arm.levers)


def _inside(levers: Sequence[Lever]) -> list[Lever]:
    """Those that act in an engine. A planted defect has both hooks and acts in one of them."""
    return [lever for lever in levers if "decode" in lever.hooks() and getattr(lever, "kind", "") != "scrambled_prompt"]


def _of_pairs(name: str, answerer: PairAnswerer, levers: Sequence[Lever], seconds: float) -> OpenArm:
    """An arm whose model reads one text and writes another: it answers without the engine, one question at a time."""
    model = answerer.model
    return dataclasses.replace(
        _wrapped(name, answerer, levers),
        slots=1,
        kernels="float32, PyTorch",
        parameters=model.trunk.parameter_count(),
        weight_bytes=model.trunk.weight_bytes(),
        cost={"load_seconds": round(seconds, 3), **training_cost(model)},
        templated=False,
    )


def _remote(arm: Arm, source: EndpointSource, levers: Sequence[Lever], directory: Path) -> OpenArm:
    """An arm that answers elsewhere. Whether it tells log-probabilities of given texts is learned when that is first needed."""
    answerer = EndpointAnswerer(
        source.url,
        source.model,
        source.key,
        timeout=source.timeout,
        deadline=source.deadline,
        retries=source.retries,
        backoff=source.backoff,
        whole=True,
        spending=Spending(directory, source.url, source.model, prices(), source.spend),
        date=source.date or first_asked(directory, source.url, source.model),
    )
    asked: list[bool] = []
    opened = dataclasses.replace(
        _wrapped(arm.name, answerer, levers), slots=source.at_once, ahead=1, read_fingerprint=digest([answerer.fingerprint, source.start])
    )

    def learn() -> None:
        if asked:
            return

        async def ask() -> None:
            try:
                await answerer.learn(source.start)
            finally:
                await answerer.aclose()

        run_to_end(ask())
        asked.append(True)
        if answerer.scores is not None:
            opened.read = read
            opened.roll = lambda texts: read([("", text) for text in texts])  # one window: the server refuses what is longer
            opened.answerer = _wrapped(arm.name, answerer, levers).answerer  # what wraps it passes on what it was seen to have

    def read(pairs: Sequence[tuple[str, str]], cut: bool = False) -> list[Score]:
        """`cut` has no meaning here: a text that is too long for the server is refused by it."""
        scores, found = answerer.scores, []
        assert scores is not None

        async def ask() -> None:
            try:
                found.extend(await scores.of_texts(pairs, source.at_once))
            finally:
                await answerer.aclose()

        run_to_end(ask())
        return found

    opened.learn = learn
    return opened


def _wrapped(name: str, answerer: Answerer, levers: Sequence[Lever]) -> OpenArm:
    inner = answerer
    wraps = [lever for lever in levers if "wrap" in lever.hooks()]
    for lever in wraps:
        hooks: Any = lever
        answerer = hooks.wrap(answerer)
    # A wrapper digests what it wraps; the levers are digested again so that one that forgets itself is still told apart.
    fingerprint = digest([answerer.fingerprint, [lever.fingerprint for lever in wraps]]) if answerer is not inner else inner.fingerprint
    return OpenArm(name, answerer, fingerprint)
