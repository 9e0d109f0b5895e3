"""The reduced form of every experiment: a few seconds each, the same code, smaller numbers."""

import pytest

from acceptance.experiment import Bench, all_names, carry_out, find, store
from steelyard.core import levers


@pytest.mark.parametrize("name", [name for name in all_names() if find(name).in_ci])
def test_the_experiment_and_its_control_behave(name, tmp_path, request):
    experiment = find(name)
    for needed in experiment.needs:
        request.getfixturevalue(needed)
    result = carry_out(experiment, Bench(tmp_path / "work", reduced=True, say=lambda line: None))
    told = [claim["claim"] for claim in (*result["cells"], *result["controls"]) if not claim["holds"]]
    assert result["outcome"] in ("as expected", "no effect at this scale"), told
    assert result["controls"], "an experiment without a negative control shows nothing"
    assert store(result, tmp_path).exists()


def test_every_stable_lever_of_ours_has_an_experiment():
    stable = {name for name, kind in levers.all_levers().items() if kind.maturity == "stable" and kind.__module__.startswith("steelyard.")}
    assert stable <= {find(name).lever for name in all_names()}
