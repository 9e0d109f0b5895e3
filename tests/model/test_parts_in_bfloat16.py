"""Every part trains under autocast as in float32, but for the rounding of bfloat16."""

from __future__ import annotations

import pytest
import torch
from new_parts import PARTS, decoder, ids


@pytest.mark.parametrize("name", PARTS)
def test_a_part_under_autocast_is_itself_rounded_and_its_gradients_are_numbers(name):
    trunk, text = decoder(name).requires_grad_(True), ids(2, 40)
    segments = torch.tensor([[0] * 11 + [1] * 20 + [-1] * 9, [0] * 40])
    with torch.no_grad():
        exact = trunk.training_logits(text, segments)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = trunk.training_logits(text, segments)
    rounded.float().logsumexp(-1).sum().backward()
    real = segments >= 0
    assert (rounded.detach() - exact)[real].norm() < 0.15 * exact[real].norm()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in trunk.parameters() if parameter.grad is not None)
