"""The loss of an encoder-decoder on pairs: what follows each token of the target, given those before it and the source.

loss = - sum_t log p(y_t | y_<t, x)   (arXiv:1409.3215, section 2)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.data.batching import NOT_LEARNED, Batch
from steelyard.data.pairs import PairBatch
from steelyard.model.encoder_decoder import EncoderDecoder
from steelyard.train.objectives import Objective


def pair_loss(model: EncoderDecoder) -> Objective:
    """The objective of `train.trainer.train` for a stream of `data.pairs.Pairs`."""

    def objective(batch: Batch) -> tuple[Tensor, int]:
        assert isinstance(batch, PairBatch), "an encoder-decoder learns from pairs"
        source, ids, targets = (torch.from_numpy(part).to(model.device) for part in (batch.source, batch.ids, batch.targets))
        logits = model(source, batch.lengths, ids)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOT_LEARNED, reduction="sum"), batch.learned

    return objective
