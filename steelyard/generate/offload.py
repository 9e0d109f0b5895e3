"""Weights on disk, and keys and values too, read block by block as they are needed: a model larger than memory runs.

A decoder's blocks are used one after the other, so all but two may wait on disk: one is multiplied while the next is read. Every
block is read once a pass and used for all rows and tokens of it (FlexGen's order), so the time of reading is shared by the batch.

    time of a pass ~ max(bytes of the blocks on disk / speed of the disk, time of computing)
    memory ~ table of tokens + share kept + 2 blocks + states of 2 blocks, or of all where they stay in memory

Source: Y. Sheng, L. Zheng, B. Yuan, Z. Li, M. Ryabinin, D. Y. Fu, Z. Xie, B. Chen, C. Barrett, J. E. Gonzalez, P. Liang, I. Stoica, C. Re,
C. Zhang, FlexGen: High-Throughput Generative Inference of Large Language Models with a Single GPU, arXiv:2303.06865, sections 3 and 4.
Here memory stands where a GPU stands there; the share of weights that stays is a setting rather than the solution of a linear program,
and states all stay in memory (where `kv_cache` makes them small) or all go to disk (`states/on_disk.py`), where a call's new tokens are
written as well. Reads pass the page cache by (`model/files/block_file.py`). States of recurrences have a fixed size and stay in memory.
Cost: a pass takes as long as the disk needs for the blocks; the blocks are written to a file first. Products are PyTorch's over the
bytes on disk: whole steps in C++ and packed matrices are for weights in memory, and for states in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from steelyard.core.errors import UnsupportedError
from steelyard.core.levers import Lever
from steelyard.generate.spec import EngineSpec
from steelyard.generate.states.on_disk import OnDisk
from steelyard.model.linears.streamed import BlockReader, readers, send_to_disk, stays


class Offload(Lever):
    """Blocks of weights streamed from disk."""

    name: ClassVar[str] = "offload"
    idea: ClassVar[str] = (
        "All but two blocks of weights wait on disk: one is multiplied while the next is read, for all rows of a batch at once. A model "
        "larger than memory runs, at the speed of the disk, and says the same. Keys and values may wait there too, layer by layer."
    )
    equation: ClassVar[str] = (
        "seconds a pass ~ max(bytes on disk / bytes a second, computing); memory ~ table + kept + 2 blocks + their states"
    )
    paper: ClassVar[str] = "arXiv:2303.06865"
    cost: ClassVar[str] = (
        "Every pass reads the blocks from disk, so one answer alone is slow and many at once share the reading. The blocks are written to "
        "a file first. Products are PyTorch's, without the kernels for weights in memory, whose rounding in bfloat16 is another: of two words "
        "nearly as likely the other may be said. With `states` every pass also reads all that its texts remember."
    )
    main: ClassVar[str] = "keep"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    identity: ClassVar[dict] = {"keep": 1.0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = False

    keep: float = Field(0.0, ge=0, le=1, allow_inf_nan=False, description="share of the blocks that stay in memory; 1 keeps them all")
    states: bool = Field(False, description="whether keys and values wait on disk too, each layer's read with its block")
    folder: Path | None = Field(None, description="folder on the disk to use, or none for the system's for temporary files")

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """A spec whose model has its blocks on disk, and its states where that is asked for. A model that was loaded so is left as it is.

        Raises:
            UnsupportedError: the model is not on a CPU, remembers no keys and values, or keeps them in another way.
        """
        trunk = spec.model.trunk
        if self.keep == 1 and not self.states:
            return spec
        if trunk.device.type != "cpu":
            raise UnsupportedError(
                "weights and states are streamed from disk to the CPU only", where="offload", do="Load the model on the CPU."
            )
        if self.states:
            spec = replace(spec, states=self._plan(spec))
        if self.keep == 1 or readers(trunk):
            return spec
        sent, reader = trunk.with_weights(spec.weight_type), BlockReader(self.folder)
        for index, block in enumerate(sent.blocks):
            if not stays(index, self.keep):
                send_to_disk(block, reader)
        return replace(spec, model=spec.model.with_trunk(sent))

    def _plan(self, spec: EngineSpec) -> OnDisk:
        """How states are kept: in the type they have in memory."""
        if spec.states is not None:
            raise UnsupportedError(
                f"states are kept in another way already ({spec.states.numerics})",
                where="offload",
                do="Leave `states` out, or the lever that keeps them so (`kv_cache`).",
            )
        plan = OnDisk(spec.cache_type, self.folder)
        tried = plan.storage(torch.float32, spec.model.trunk.device, 0)
        spec.model.trunk.new_state(1, 1, tried)
        if not tried.stores:
            raise UnsupportedError(
                f"{spec.model.name} remembers no keys and values: states of a fixed size stay in memory",
                where="offload",
                do="Leave `states` out.",
            )
        return plan


def kept(levers: Sequence[Lever]) -> Offload | None:
    """The offloading among an arm's levers: its model is then loaded block by block, and never lies in memory whole."""
    return next((lever for lever in levers if isinstance(lever, Offload) and lever.keep < 1), None)
