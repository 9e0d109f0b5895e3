"""Whole steps in C++: the fast twin of a trunk of attention and dense channels, over the same weights and the same cache.

What it cannot do goes the trunk's own way, over the same cache: whole steps (those without a cache, say) or single rows, those on which
a site program does more than leave whole blocks out and those with an adapter, while the other rows of the step are computed here.
`fused` says which trunks it knows, `supports` which rows of a step.
The readable twin is `Trunk.forward`. Every row's result depends on that row alone, so `deterministic` costs nothing here.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from steelyard.kernels import native
from steelyard.model.channels.feed_forward import FeedForward
from steelyard.model.channels.gated import Gated
from steelyard.model.depth.stacked import Stacked
from steelyard.model.linears.linear import Linear
from steelyard.model.linears.native import NativeStorage
from steelyard.model.mixers.attention import Attention
from steelyard.model.mixers.rotary import Rotary
from steelyard.model.narrow_state import NarrowStore
from steelyard.model.sites import SiteProgram
from steelyard.model.state import DenseStore, KeyValuePool, State
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk

CACHES: dict[type, int] = {DenseStore: 0, NarrowStore: 1}
"""Stores the routines read, by the number of `CacheKind` in native/source/api.hpp; a dense one is float32."""
QUERIES = 16
"""Tokens of a text whose queries go over the cache together."""
FEW_BITS = 2
"""The number of stores that are described to the routines one by one (`FewBitsStore`)."""


@runtime_checkable
class FewBitsStore(Protocol):
    """A store that the routines read and write by what `fields` says; None: they cannot."""

    capacity: int

    def fields(self) -> native.FewBitsFields | None: ...

    @property
    def at_once(self) -> int:
        """Tokens of a slot that one call may bring."""
        ...

    def wrote(self, step: Step) -> None:
        """Takes note of a step's tokens, which the routines have put into the store."""
        ...


class FusedTrunk:
    """Computes what its trunk computes, by one call a step. Made by `fused`."""

    def __init__(self, trunk: Trunk, state: State):
        self.trunk, self.state = trunk, state
        self.rotaries: list[Rotary] = []
        self._kept: list[Tensor] = []  # what the structures point to
        self._described: list[native.FewBitsFields] = []
        blocks: list[Any] = list(trunk.blocks)
        plan = blocks[0].mixer.plan
        self.pool: native.Pool = blocks[0].mixer.query.storage.pool
        self.pools: list[KeyValuePool] = [state[f"{block.name}.mixer"] for block in blocks]
        self._layers = (native.LayerFields * len(blocks))(*[self._layer(block) for block in blocks])
        self._model = native.ModelFields(
            layers=len(blocks),
            width=trunk.plan.width,
            heads=plan.heads,
            key_value_heads=plan.key_value_heads,
            head_width=plan.head_width,
            hidden=blocks[0].channel.plan.hidden,
            rotary=plan.rotary.dimensions if plan.rotary else 0,
            activation=native.ACTIVATIONS[blocks[0].channel.plan.activation],
            cache=_cache_kind(self.pools[0].keys),
            capacity=self.pools[0].keys.capacity,  # type: ignore[attr-defined]
            final_norm=self._norm(trunk.norm),
            layer=self._layers,
        )
        first = self.pools[0].keys
        self.at_once = first.at_once if isinstance(first, FewBitsStore) else None  # None: any number of tokens
        if self.at_once is not None and self.at_once > QUERIES:
            self.at_once = self.at_once // QUERIES * QUERIES
        self._parts: dict[tuple[int, ...], tuple[native.ModelFields, list[KeyValuePool]]] = {}

    def _layer(self, block: Any) -> native.LayerFields:
        mixer, channel, cache = block.mixer, block.channel, self.state[f"{block.name}.mixer"]
        rotary = mixer.plan.rotary
        if rotary is not None and rotary not in self.rotaries:
            self.rotaries.append(rotary)
        linears = {name: getattr(mixer, name) for name in ("query", "key", "value", "output")}
        linears |= {name: getattr(channel, name) for name in ("gate", "up", "down") if hasattr(channel, name)}
        norms = {name: getattr(block, name) for name in ("mixer_norm", "channel_norm", "mixer_after", "channel_after")}
        norms |= {"query_norm": mixer.query_norm, "key_norm": mixer.key_norm}
        return native.LayerFields(
            **{name: linear.storage.matrix.address for name, linear in linears.items()},
            **{name: self._norm(norm) for name, norm in norms.items()},
            keys=self._cache(cache.keys),
            values=self._cache(cache.values),
            scale=mixer.scale,
            softcap=mixer.plan.softcap or 0.0,
            window=mixer.plan.window or 0,
            angles=self.rotaries.index(rotary) if rotary is not None else -1,
            residual=native.RESIDUALS[block.plan.residual],
        )

    def _cache(self, store: Any) -> int:
        """Where the routines find a layer's keys or values."""
        if type(store) in CACHES:
            return store.data.data_ptr()
        self._described.append(store.fields())
        return ctypes.addressof(self._described[-1])

    def _norm(self, norm: Any) -> native.NormFields:
        if norm is None:
            return native.NormFields()
        plan, bias = norm.plan, getattr(norm, "bias", None)
        offset = plan.offset if plan.kind == "rms" else 0.0
        kept = [None if part is None else part.detach().float().contiguous() for part in (norm.weight + offset, bias)]
        self._kept += [part for part in kept if part is not None]
        addresses = [None if part is None else part.data_ptr() for part in kept]
        return native.NormFields(*addresses, plan.epsilon, len(norm.weight), native.NORMS[plan.kind])

    def _part(self, program: SiteProgram | None) -> tuple[native.ModelFields, list[KeyValuePool]]:
        """What is computed of the model where a program leaves blocks out, and the memories that see the call's tokens."""
        blocks = tuple(block for block in range(len(self._layers)) if program is None or program.computes(block))
        if blocks not in self._parts:
            layers = (native.LayerFields * len(blocks))(*[self._layers[block] for block in blocks])
            values = {field[0]: getattr(self._model, field[0]) for field in native.ModelFields._fields_}
            self._parts[blocks] = native.ModelFields(**values | {"layers": len(blocks), "layer": layers}), [self.pools[b] for b in blocks]
        return self._parts[blocks]

    def supports(self, step: Step) -> tuple[bool, ...]:
        """Which rows of this step can be computed here; `__call__` hands the others to the trunk. Nothing about a row's neighbours
        counts, so that a text goes one way from its beginning to its end."""
        if not step.slots or step.readable or step.side or step.segments is not None:
            return (False,) * step.rows
        program, adapters = step.program, step.adapters or (-1,) * step.rows
        return tuple(adapter < 0 and (program is None or not program.reaches(row)) for row, adapter in enumerate(adapters))

    def __call__(self, ids_bt: Tensor, step: Step, state: State) -> Tensor:
        """Hidden states [b, t, d] after the final norm; those of padding are of no use."""
        real = [row for row, length in enumerate(step.lengths) if length]
        here = self.supports(step) if state is self.state else (False,) * step.rows
        if not any(here[row] for row in real):
            return self.trunk(ids_bt, step, state)
        if all(here[row] for row in real):
            return self._run(ids_bt, step)
        hidden = torch.zeros(step.rows, step.time, self.trunk.plan.width)
        for rows, run in (([row for row in real if here[row]], self._run), ([row for row in real if not here[row]], self._trunk)):
            part = step.of_rows(rows)
            hidden[rows, : part.time] = run(ids_bt[rows, : part.time], part)
        return hidden

    def _trunk(self, ids_bt: Tensor, step: Step) -> Tensor:
        return self.trunk(ids_bt, step, self.state)

    def _run(self, ids_bt: Tensor, step: Step) -> Tensor:
        """The same of rows that are all supported; those of padding are zero."""
        if self.at_once is not None and max(step.lengths) > self.at_once:
            return self._run_in_pieces(ids_bt, step, self.at_once)
        x = self.trunk.inputs(ids_bt, step)
        whole = min(step.lengths) == step.time
        real = None if whole else torch.arange(step.time) < torch.tensor(step.lengths)[:, None]  # [b, t]

        def flat(x_bt: Tensor) -> Tensor:
            return (x_bt.flatten(0, 1) if real is None else x_bt[real]).contiguous()

        stream = flat(x)
        slots = flat(torch.tensor(step.slots, dtype=torch.int32)[:, None].expand(-1, step.time))
        angles = [rotary.angles(step) for rotary in self.rotaries]
        cos, sin = [flat(cos[:, 0]) for cos, _ in angles], [flat(sin[:, 0]) for _, sin in angles]
        model, pools = self._part(step.program)
        native.step(self.pool, model, stream, slots, flat(step.positions).to(torch.int32), cos, sin)
        for pool in pools:
            pool.wrote(step)
            if self.at_once is not None:
                pool.keys.wrote(step), pool.values.wrote(step)  # type: ignore[attr-defined]
        if real is None:
            return stream.view(x.shape)
        return torch.zeros_like(x).masked_scatter_(real[:, :, None].expand_as(x), stream)

    def _run_in_pieces(self, ids_bt: Tensor, step: Step, size: int) -> Tensor:
        """The same by several calls, each of at most `size` tokens of a row: no token's numbers depend on where its text is cut."""
        hidden = torch.zeros(step.rows, step.time, self.trunk.plan.width)
        for begin in range(0, max(step.lengths), size):
            rows = [row for row, length in enumerate(step.lengths) if length > begin]
            part = step.of_rows(rows)
            lengths = tuple(min(length - begin, size) for length in part.lengths)
            part = part.changed(starts=tuple(start + begin for start in part.starts), lengths=lengths, time=max(lengths))
            times = slice(begin, begin + part.time)
            hidden[rows, times] = self._run(ids_bt[rows, times], part)
        return hidden


def fused(trunk: Trunk, state: State) -> FusedTrunk | None:
    """The fast twin of a trunk whose linears have gone native, or None where the routines lack something it has."""
    return None if lack(trunk) or not _readable(trunk, state) else FusedTrunk(trunk, state)


def _readable(trunk: Trunk, state: State) -> bool:
    """Whether the routines know how keys and values are kept."""
    pools: list[KeyValuePool] = [state[f"{block.name}.mixer"] for block in trunk.blocks]  # type: ignore[union-attr]
    stores: list[Any] = [store for pool in pools for store in (pool.keys, pool.values)]
    if len({type(store) for store in stores}) > 1:
        return False
    if all(isinstance(store, FewBitsStore) for store in stores):
        fields = [store.fields() for store in stores]
        return None not in fields and len({tuple(getattr(each, name) for name in SCHEME) for each in fields}) == 1
    return all(type(store) in CACHES and (type(store) is not DenseStore or _wide(store)) for store in stores)


SCHEME = ("bits", "window", "group", "groups", "kept")
"""What must be the same of all layers' keys and values in few bits."""


def _wide(store: DenseStore) -> bool:
    return store.data.dtype == store.rounding == torch.float32


def _cache_kind(store: Any) -> int:
    return CACHES.get(type(store), FEW_BITS)


def lack(trunk: Trunk) -> str | None:
    """What of a trunk the routines lack, or None."""
    if type(trunk.blocks) is not Stacked:
        return f"blocks in a {type(trunk.blocks).__name__} stack"
    blocks: list[Any] = list(trunk.blocks)
    if not blocks or trunk.device.type != "cpu":
        return "blocks on a CPU"
    for block in blocks:
        mixer, channel = block.mixer, block.channel
        if not isinstance(mixer, Attention) or not isinstance(channel, Gated | FeedForward):
            return f"{type(mixer).__name__} with {type(channel).__name__}"
        if block.plan.residual not in native.RESIDUALS:
            return f"blocks of the kind {block.plan.residual}"
        if not mixer.plan.causal or mixer.plan.head_width % 2:  # the narrow cache keeps pairs
            return f"attention like {mixer.plan}"
        if channel.plan.activation not in native.ACTIVATIONS:
            return f"the nonlinearity {channel.plan.activation}"
        if mixer.output_norm is not None or getattr(channel, "inner_norm", None) is not None:
            return "norms before output maps"
        if _sizes(block) != _sizes(blocks[0]):
            return "blocks of unlike sizes"
        linears = [module for module in block.modules() if isinstance(module, Linear)]
        if any(not isinstance(linear.storage, NativeStorage) for linear in linears):
            return "linears kept in another way"
        if any(not getattr(branch, "by_row", False) for linear in linears for branch in linear.branches.values()):
            return "linears with branches on every row"
    return None


def _sizes(block: Any) -> tuple:
    plan, rotary = block.mixer.plan, block.mixer.plan.rotary
    attention = (plan.heads, plan.key_value_heads, plan.head_width, rotary.dimensions if rotary else None)
    return (*attention, block.channel.plan.hidden, block.channel.plan.activation)


assert ctypes.sizeof(native.LayerFields) == 7 * 8 + 6 * 32 + 2 * 8 + 6 * 4  # as native/source/api.hpp lays it out
