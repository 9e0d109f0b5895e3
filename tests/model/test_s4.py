"""S4 against scipy's systems: the same steps, the same kernel, whichever way it is computed; HiPPO's matrix is the paper's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from new_parts import decoder

from steelyard.core.errors import RecipeError
from steelyard.core.levers import parse
from steelyard.model.mixers.s4 import S4, S4Plan, convolved, hippo
from steelyard.model.step import Step
from steelyard.train.optimizers import optimizers

CPU = torch.device("cpu")
every_kind = pytest.mark.parametrize("kind", ["diagonal", "low_rank"])


def made(kind, state: int = 8, width: int = 3, start="hippo", seed: int = 0) -> S4:
    part = S4Plan(kind, state, start, 0.02, 0.3).build(width).requires_grad_(False)
    part.reset(torch.Generator().manual_seed(seed))
    return part


def system(part: S4, channel: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """A, B, C of one channel with both modes of each pair, and its step."""
    modes, into, out_of, rank, delta = part.continuous()
    both = [torch.cat((x[channel], x[channel].conj())).numpy() for x in (modes, into, out_of)]
    a = np.diag(both[0])
    if rank is not None:
        p = torch.cat((rank[channel], rank[channel].conj())).numpy()
        a = a - np.outer(p, p.conj())
    return a, both[1][:, None], both[2][None], float(delta[channel])


@every_kind
@settings(max_examples=15, deadline=None)
@given(state=st.sampled_from([2, 4, 8, 16]), length=st.integers(1, 90), start=st.sampled_from(["hippo", "random"]), seed=st.integers(0, 99))
def test_the_kernel_is_scipys_system_answering_an_impulse(kind, state, length, start, seed):
    part = made(kind, state, start=start, seed=seed)
    ours = part.kernel(length)
    assert ours.shape == (3, length)
    for channel in range(3):
        a, b, c, delta = system(part, channel)
        zero = np.zeros((1, 1))
        how = "zoh" if kind == "diagonal" else "bilinear"
        # scipy's bilinear transform also changes C and D (its state stands elsewhere); A_d and B_d are those of the paper.
        a_d, b_d, *_ = scipy.signal.cont2discrete((a, b, c, zero), delta, method=how)
        expected, x = [], b_d
        for _ in range(length):
            expected.append((c @ x).real.item())
            x = a_d @ x
        scale = max(1.0, float(np.abs(expected).max()))
        assert np.abs(ours[channel].numpy() - expected).max() < 2e-4 * scale


@every_kind
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_the_convolution_is_the_recurrence_in_steps_and_pieces(kind, data):
    part, time = made(kind), 50
    x, step = torch.randn(2, time, 3), Step.whole(2, time, CPU)
    whole = part._filter(x, (time, time), {})[0]
    memory, done, heard = {"state": torch.zeros(2, 3, 4, 2)}, 0, []
    while done < time:
        size = min(data.draw(st.sampled_from([1, 1, 2, 13, 30])), time - done)
        y, memory = part._filter(x[:, done : done + size], (size, size), memory)
        heard.append(y)
        done += size
    assert (torch.cat(heard, 1) - whole).abs().max() < 1e-4 * float(whole.abs().max())
    assert part(x, step).shape == x.shape


@every_kind
def test_a_row_that_ends_earlier_remembers_what_it_would_alone(kind):
    part, x = made(kind), torch.randn(2, 20, 3)
    memory = {"state": torch.randn(2, 3, 4, 2)}
    x[1, 11:] = 0
    _, after = part._filter(x, (20, 11), memory)
    _, alone = part._filter(x[1:, :11], (11,), {"state": memory["state"][1:]})
    assert torch.allclose(after["state"][1], alone["state"][0], atol=1e-4)


def test_fast_convolution_is_convolution():
    u, kernel = torch.randn(1, 37, 2), torch.randn(2, 37)
    expected = np.stack([np.convolve(u[0, :, channel], kernel[channel])[:37] for channel in range(2)], -1)
    assert np.abs(convolved(u, kernel)[0].numpy() - expected).max() < 1e-4


def test_hippos_matrix_is_the_papers_and_its_state_holds_the_input_in_legendre_polynomials():
    size = 8
    modes, into, rank = hippo(size)
    both = [torch.cat((x, x.conj())).numpy() for x in (modes, into, rank)]
    found = np.diag(both[0]) - np.outer(both[2], both[2].conj())
    a = np.array(
        [[-((2 * n + 1) ** 0.5) * (2 * k + 1) ** 0.5 if n > k else -(n + 1) if n == k else 0 for k in range(size)] for n in range(size)]
    )
    b = np.array([(2 * n + 1) ** 0.5 for n in range(size)])
    # Another basis: what does not depend on it is what the system does to an input.
    for power in range(6):
        assert np.isclose(
            both[1].conj() @ np.linalg.matrix_power(found, power) @ both[1], b @ np.linalg.matrix_power(a, power) @ b, rtol=1e-6
        )
    assert np.allclose(np.sort(np.linalg.eigvals(found).real), -np.arange(size, 0, -1), atol=1e-4)


def test_modes_and_steps_learn_a_tenth_as_fast_as_the_rest():
    trunk = decoder("s4").requires_grad_(True)
    trained = dict(trunk.named_parameters())
    groups = [
        group
        for optimizer in optimizers(trunk, trained, "adamw", learning_rate=1e-3, weight_decay=0.1, betas=(0.9, 0.99), epsilon=1e-8)
        for group in optimizer.param_groups
    ]
    rates = {id(parameter): group.get("rate", 1.0) for group in groups for parameter in group["params"]}
    slow = {name.rsplit(".", 1)[1] for name, parameter in trained.items() if rates[id(parameter)] == 0.1}
    assert slow == {"log_decay", "frequency", "into", "log_step"}
    assert sum(len(group["params"]) for group in groups) == len(trained)


@every_kind
def test_gradients_of_the_kernel_are_those_of_finite_differences(kind):
    part = made(kind, 4, 2).requires_grad_(True)
    weighing = torch.randn(2, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (part.kernel(12) * weighing).sum().backward()
    for name, parameter in part.named_parameters():
        if parameter.grad is None:
            continue
        with torch.no_grad():
            was = parameter[1].item()
            sides = []
            for change in (1e-2, -1e-2):
                parameter[1] = was + change
                sides.append(float((part.kernel(12) * weighing).sum()))
            parameter[1] = was
        assert float(parameter.grad[1]) == pytest.approx((sides[0] - sides[1]) / 2e-2, rel=0.05, abs=2e-3), name


@every_kind
def test_a_kept_system_is_made_anew_once_its_parameters_have_changed(kind):
    part, x, memory = made(kind), torch.randn(1, 9, 3), {"state": torch.randn(1, 3, 4, 2)}
    with torch.no_grad():
        part._filter(x, (9,), memory)
        part.log_step += 0.5
        y, after = part._filter(x, (9,), memory)
    fresh = made(kind)
    fresh.log_step.data += 0.5
    expected, expected_after = fresh._filter(x, (9,), memory)
    assert torch.allclose(y, expected, atol=1e-4) and torch.allclose(after["state"], expected_after["state"], atol=1e-4)


def test_a_smallest_step_above_the_largest_is_refused():
    with pytest.raises(RecipeError, match="`least_step` 0.2 is above `most_step` 0.1"):
        parse({"s4": {"least_step": 0.2}}, "new.mixer")
