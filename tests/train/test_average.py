"""The running mean of the weights: what is validated, sampled and kept, while training goes on from the last weights."""

import pytest
import torch
from guessing_three import Endless, Line

from steelyard.core.run import Run
from steelyard.train import checkpoints
from steelyard.train.average import Average
from steelyard.train.trainer import TrainerSettings, train


def test_the_mean_follows_its_equation_and_gives_every_bit_back():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    average, mean = Average({"w": weight}, 0.5), weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            weight.mul_(1.7)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        mean = mean + (1 - decay) * (weight.detach() - mean)
    assert torch.allclose(average.means["w"], mean)
    own = weight.detach().clone()
    with average.in_place():
        assert torch.equal(weight, average.means["w"])
    assert torch.equal(weight, own)


def trained(directory, **settings):
    line, seen = Line(), []
    chosen = TrainerSettings(steps=12, learning_rate=0.3, warmup=0.0, shape="constant", **settings)
    sample = lambda: seen.append(line.guess.detach().clone()) or ["a text"]  # noqa: E731
    progress = train(line, line.loss, Endless(), chosen, Run(directory, seed=1), sample=sample, validation=Once())
    return line, progress, seen


class Once(Endless):
    def iterate(self, place=None):
        yield next(super().iterate())


def test_the_finished_model_is_the_mean_and_the_training_is_the_same_without_it(tmp_path):
    plain, _, _ = trained(tmp_path / "plain")
    mean, progress, seen = trained(tmp_path / "mean", average=0.8)
    kept = checkpoints.load_latest(tmp_path / "mean" / "checkpoints")
    assert torch.equal(kept.trained["guess"], plain.guess)
    assert torch.equal(kept.optimizer["guess/mean"], mean.guess)
    assert not torch.equal(mean.guess, plain.guess)
    assert torch.equal(seen[-1], mean.guess)
    loss, count = mean.loss(next(Once().iterate())[0])
    assert progress.validation_loss == pytest.approx(float(loss.detach()) / count)
    again, _, _ = trained(tmp_path / "mean", average=0.8)
    assert torch.equal(again.guess, mean.guess)
