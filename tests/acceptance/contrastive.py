"""Contrastive decoding: rare facts that a model is about to learn come out when a weaker model's view is subtracted."""

from __future__ import annotations

from acceptance.experiment import Bench, Claim, Experiment, Finding, cells, compared
from acceptance.planted_facts import AFTER, NOTHING_GAINED, RARE_RECALLED, WHAT, facts, recalled, taught, told
from steelyard.core.levers import Lever
from steelyard.core.references import ModelRef
from steelyard.generate.readouts.contrastive import Contrastive
from steelyard.weigh.tasks.facts import Facts


def run(bench: Bench) -> Finding:
    rare: dict[str, list[float]] = {}
    common: dict[str, list[float]] = {}
    for seed in bench.pick((1, 2, 3), (1,)):
        known = facts(bench.seed + seed, 240)
        expert, amateur = (
            taught(bench, f"{name}{seed}", known, seed, *size) for name, size in (("expert", (4, AFTER)), ("amateur", (1, 80)))
        )
        arms: dict[str, tuple] = {
            "plain": (expert, None),
            "contrast": (expert, Contrastive(amateur=ModelRef("the amateur", amateur))),
            "half": (expert, Contrastive(amateur=ModelRef("the amateur", amateur), strength=0.5)),
            "amateur": (amateur, None),
            "exchanged": (amateur, Contrastive(amateur=ModelRef("the expert", expert))),
        }
        told(rare, recalled(bench, arms, [fact for fact in known if fact.rare]))
        told(common, recalled(bench, arms, [fact for fact in known if not fact.rare][:60]))
    claims = [
        Claim("more rare facts are recalled", compared("contrast", WHAT, RARE_RECALLED, rare["plain"], rare["contrast"]), ("better",)),
        Claim("half the strength helps too", compared("half", WHAT, RARE_RECALLED, rare["plain"], rare["half"]), ("better",)),
        Claim(
            "with the roles exchanged nothing is gained",
            compared("exchanged", WHAT, RARE_RECALLED, rare["amateur"], rare["exchanged"]),
            NOTHING_GAINED,
            control=True,
        ),
    ]
    levers: dict[str, list[Lever]] = {"shortened": [Contrastive(strength=0.5)]}
    if not bench.reduced:
        task = Facts(answerable=60, invented=0, max_tokens=12)
        found = cells(task, bench.ask(task, levers), "shortened")
        claims.append(
            Claim("facts that SmolLM2-135M has long learned gain nothing from its shortened self", found["right"], NOTHING_GAINED)
        )
    return Finding(
        claims,
        {"contrast": [Contrastive(amateur=ModelRef("the amateur"))], **({} if bench.reduced else levers)},
        notes=(
            f"The price, by far the larger sum where common facts are three times as many: common facts recalled fall from "
            f"{sum(common['plain']):.0f} of {len(common['plain'])} to "
            f"{sum(common['contrast']):.0f}, at half the strength to {sum(common['half']):.0f}.",
            "The gain is found in a model of 4 blocks in the middle of learning; in one that has learned all there is nothing to gain.",
        ),
    )


EXPERIMENT = Experiment(
    "contrastive",
    "contrastive",
    "Rare facts that a model is about to learn are recalled more often when an amateur's log-probabilities are subtracted.",
    "With the roles of expert and amateur exchanged no more of them may be recalled.",
    "mechanism",
    run,
)
