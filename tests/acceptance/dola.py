"""DoLa: rare facts that a model is about to learn come out when an earlier layer's view is subtracted; added, it does not help."""

from __future__ import annotations

from dataclasses import replace

from acceptance.experiment import Bench, Claim, Experiment, Finding, cells, compared
from acceptance.planted_facts import AFTER, NOTHING_GAINED, RARE_RECALLED, WHAT, facts, recalled, taught, told
from steelyard.core.levers import Lever
from steelyard.generate.readouts.dola import Dola, Layers
from steelyard.generate.spec import EngineSpec
from steelyard.weigh.tasks.facts import Facts


class Added(Dola):
    """The control: the earlier layer's view is added instead."""

    def decode(self, spec: EngineSpec) -> EngineSpec:
        spec = super().decode(spec)
        *others, readout = spec.readouts
        assert isinstance(readout, Layers)
        return replace(spec, readouts=(*others, replace(readout, strength=-self.strength)))


def run(bench: Bench) -> Finding:
    rare: dict[str, list[float]] = {}
    common: dict[str, list[float]] = {}
    layers = (1, 2, 3)
    for seed in bench.pick((1, 2, 3), (1,)):
        known = facts(bench.seed + seed, 240)
        model = taught(bench, f"model{seed}", known, seed, 4, AFTER)
        arms: dict[str, tuple] = {
            "plain": (model, None),
            "dola": (model, Dola(layers=layers)),
            "half": (model, Dola(layers=layers, strength=0.5)),
            "added": (model, Added(layers=layers)),
        }
        told(rare, recalled(bench, arms, [fact for fact in known if fact.rare]))
        told(common, recalled(bench, arms, [fact for fact in known if not fact.rare][:60]))
    claims = [
        Claim("more rare facts are recalled", compared("dola", WHAT, RARE_RECALLED, rare["plain"], rare["dola"]), ("better",)),
        Claim("half the strength helps too", compared("half", WHAT, RARE_RECALLED, rare["plain"], rare["half"]), ("better",)),
        Claim(
            "the earlier view added instead gains nothing",
            compared("added", WHAT, RARE_RECALLED, rare["plain"], rare["added"]),
            NOTHING_GAINED,
            control=True,
        ),
    ]
    levers: dict[str, list[Lever]] = {"high": [Dola()], "low": [Dola(layers="low")]}
    if not bench.reduced:
        task = Facts(answerable=60, invented=0, max_tokens=12)
        asked = bench.ask(task, levers)
        for arm in levers:
            what = f"facts that SmolLM2-135M has long learned gain nothing from its {'upper' if arm == 'high' else 'lower'} half"
            claims.append(Claim(what, cells(task, asked, arm)["right"], NOTHING_GAINED))
    return Finding(
        claims,
        {"dola": [Dola(layers=layers)], **({} if bench.reduced else levers)},
        notes=(
            f"The price, by far the larger sum where common facts are three times as many: common facts recalled fall from "
            f"{sum(common['plain']):.0f} of {len(common['plain'])} to "
            f"{sum(common['dola']):.0f}, at half the strength to {sum(common['half']):.0f}.",
            "The gain is found in a model of 4 blocks in the middle of learning. The paper's gains are on models of 7 billion weights and "
            "more; layers of small models are hardly of use to read early.",
        ),
    )


EXPERIMENT = Experiment(
    "dola",
    "dola",
    "Rare facts that a model is about to learn are recalled more often when the view of the layer that differs most is subtracted.",
    "The same view added instead must not help.",
    "mechanism",
    run,
)
