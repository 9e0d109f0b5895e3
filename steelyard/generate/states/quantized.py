"""Keys and values in 8, 4 or 2 bits: token stores that keep a recent window in floats and everything before it rounded and packed.

code = round((x - low) / scale), scale = (max - low) / (2^bits - 1), low = min;   x' = code * scale + low
low and scale (16-bit floats) belong to `group` numbers: to one channel of `group` tokens in a row where numbers are rounded by channel,
to `group` channels of one token where they are rounded by token. Codes are packed along time: two tokens to a byte at 4 bits, four at 2.

Groups lie on the absolute grid of tokens, and a query at position p sees a group rounded if it ends at least `window` tokens before
p's own end, else in floats: what a query sees depends on its position and the tokens alone, never on how a text was cut into calls.
So a call of many queries is answered in stretches of its time between which a group changes over.

Whole steps in C++ (`native/source/few_bits.hpp`, the fast twin of what is here) read and write the same tensors, so that a text's
calls may go either way.

Going back: the floats of `horizon` more tokens are kept, so any position within the last `horizon` can be gone on from exactly. From
one further back it cannot (its floats are gone), and `reach` says 0: such a text is read again.

Shapes: b rows, t time, h heads, d head width, n groups, g tokens of a group, c parts of a head's width that share a scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from steelyard.kernels import native
from steelyard.model.state import Role, zeros
from steelyard.model.step import Step

By = Literal["channel", "token"]


@dataclass(frozen=True)
class Scheme:
    """How tokens are kept.

    Attributes:
        bits: of a code: 8, 4 or 2.
        window: tokens before a query's end that it sees in floats, at least.
        group: numbers that share a scale, and tokens that are rounded at once; a multiple of 8.
        horizon: tokens one can go back.
    """

    bits: int
    window: int
    group: int
    horizon: int

    def rounded(self, length: int) -> int:
        """How many of the first `length` tokens the last of them sees rounded; the floats of the others are needed to go on."""
        return max(0, length - self.window) // self.group * self.group

    @property
    def kept(self) -> int:
        """Tokens of a slot that are kept in floats."""
        return -(-(self.window + self.group + self.horizon) // self.group) * self.group


class Quantized:
    """Storage that rounds keys and values (see the module's docstring). `keys` says how keys are rounded; values are by token."""

    def __init__(self, scheme: Scheme, keys: By, dtype: torch.dtype, device: torch.device):
        self.scheme, self.dtype, self.device = scheme, dtype, device
        self.by: dict[Role, By] = {"keys": keys, "values": "token"}

    @property
    def horizon(self) -> int:
        return self.scheme.horizon

    def tokens(self, slots: int, heads: int, tokens: int, width: int, role: Role) -> QuantizedStore:
        return QuantizedStore((slots, heads, tokens, width), self.scheme, self.by[role], self.dtype, self.device)


class Codes(NamedTuple):
    """Rounded groups: `packed` uint8 [..., g * bits / 8, d]; `low` and `scale` float16, [..., 1, d] by channel, [..., g, c] by token."""

    packed: Tensor
    low: Tensor
    scale: Tensor


def encode(x_gd: Tensor, bits: int, by: By, share: int) -> Codes:
    """Groups [..., g, d] in codes; `share` channels of a token have one scale where rounding is by token.

    Raises:
        SteelyardError: numbers that no 16-bit float can bound.
    """
    *_, tokens, width = x_gd.shape
    x = x_gd.float() if by == "channel" else x_gd.float().unflatten(-1, (width // share, share))
    over = -2 if by == "channel" else -1
    least, most = x.amin(over, keepdim=True), x.amax(over, keepdim=True)
    low = least.half()
    scale = ((most - low.float()) / (2**bits - 1)).half()
    if not bool((low.isfinite() & scale.isfinite()).all()):
        raise native.beyond_few_bits(float(least.min()), float(most.max()))
    inverse = torch.where(scale > 0, 1 / scale.float(), 0.0)
    codes = ((x - low.float()) * inverse).round().clamp(0, 2**bits - 1).to(torch.uint8).reshape(x_gd.shape)
    low, scale = (low, scale) if by == "channel" else (low.squeeze(-1), scale.squeeze(-1))
    return Codes(pack(codes, bits), low, scale)


def decode(codes: Codes, bits: int) -> Tensor:
    """float32 [..., g, d]. Product and sum are separate operations, so that every number comes out the same wherever it lies."""
    x = unpack(codes.packed, bits).float()
    low, scale = codes.low.float(), codes.scale.float()
    if low.shape[-2] == 1:  # by channel
        return x.mul_(scale).add_(low)
    parts = low.shape[-1]
    return x.unflatten(-1, (parts, -1)).mul_(scale[..., None]).add_(low[..., None]).flatten(-2)


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 [..., g, d], each below 2^bits -> uint8 [..., g * bits / 8, d]: neighbours in time share a byte, the earlier lower."""
    each = 8 // bits
    parts = codes.unflatten(-2, (-1, each))  # [..., g / each, each, d]
    out = parts[..., 0, :].clone()
    for place in range(1, each):
        out |= parts[..., place, :] << (place * bits)
    return out


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`."""
    if bits == 8:
        return packed
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None, :] >> shifts[:, None]) & (2**bits - 1)).flatten(-3, -2)


class QuantizedStore:
    """One tensor per token and slot: `codes` of every whole group, and a ring of recent tokens [slots, kept, h, d] in floats.

    A call's own tokens and the older ones its queries see in floats lie together in `staged` from `write` until every row has been
    viewed, so that only one layer's are there at a time.
    """

    in_parts = False  # the recent tokens' floats are those of the slot's end

    def __init__(self, shape: tuple[int, int, int, int], scheme: Scheme, by: By, dtype: torch.dtype, device: torch.device):
        slots, heads, tokens, width = shape
        self.scheme, self.width, self.capacity = scheme, width, tokens
        self.by: By = by
        self.share = scheme.group if width % scheme.group == 0 else width
        groups = -(-tokens // scheme.group)
        place = (1, width) if by == "channel" else (scheme.group, width // self.share)
        self.codes = Codes(
            zeros((slots, heads, groups, scheme.group * scheme.bits // 8, width), torch.uint8, device),
            zeros((slots, heads, groups, *place), torch.float16, device),
            zeros((slots, heads, groups, *place), torch.float16, device),
        )
        self.recent = zeros((slots, scheme.kept, heads, width), dtype, device)
        self.since = [0] * slots  # the first token whose floats the ring still holds
        self.staged: Tensor | None = None  # [b, from the first token needed to the last, h, d]
        self.unseen: set[int] = set()  # rows not yet viewed

    def write(self, step: Step, x_bhtd: Tensor) -> None:
        scheme, (_, _, heads, width) = self.scheme, self.recent.shape
        layout = step.cached(("quantized", scheme), lambda: Layout.of(step, scheme))
        ring = self.recent.view(-1, heads, width)
        staged = torch.zeros(step.rows * layout.span, heads, width, dtype=ring.dtype, device=ring.device)
        staged[layout.old] = ring[layout.old_in_ring]
        staged[layout.new] = x_bhtd.transpose(1, 2)[layout.rows, layout.times].to(ring.dtype)
        ring[layout.last_in_ring] = staged[layout.last]
        self.staged, self.unseen = staged.view(step.rows, layout.span, heads, width), set(range(step.rows))
        if layout.closed:
            rows, slots, groups, places = (list(column) for column in zip(*layout.closed, strict=True))
            whole = self.staged.unflatten(1, (-1, scheme.group))[rows, places].transpose(1, 2)  # [n, h, g, d]
            for kind, part in zip(self.codes, encode(whole, scheme.bits, self.by, self.share), strict=True):
                kind[slots, :, groups] = part
        self.wrote(step)

    def wrote(self, step: Step) -> None:
        """Takes note of which floats the ring holds after a step's tokens have been put into it."""
        for slot, start, length in zip(step.slots, step.starts, step.lengths, strict=True):
            if length:
                self.since[slot] = max(self.since[slot] if start else 0, start + length - self.scheme.kept)

    def fields(self) -> native.FewBitsFields | None:
        """What the C++ routines must know to read and write this store; None where they cannot."""
        if self.recent.device.type != "cpu" or self.recent.dtype != torch.float32 or native.STRETCH % self.scheme.group:
            return None
        addresses = [tensor.data_ptr() for tensor in (*self.codes, self.recent)]
        scheme, share = self.scheme, self.share if self.by == "token" else 0
        return native.FewBitsFields(*addresses, scheme.bits, scheme.window, scheme.group, self.codes.packed.shape[2], scheme.kept, share)

    @property
    def at_once(self) -> int:
        """Tokens of a slot that one call of the routines may bring: the ring then still holds what its first query sees in floats."""
        return self.scheme.kept - self.scheme.window - self.scheme.group + 1

    def views(self, step: Step, rows: slice | tuple[int, ...], extent: int) -> Iterator[tuple[slice, Tensor]]:
        assert self.staged is not None, "views follow write"
        scheme, staged = self.scheme, self.staged
        layout = step.cached(("quantized", scheme), lambda: Layout.of(step, scheme))
        which = range(step.rows) if isinstance(rows, slice) else rows
        slots = [step.slots[row] for row in which]
        out = torch.zeros(len(which), staged.shape[2], extent, self.width, dtype=staged.dtype, device=staged.device)
        seen: list[int] | None = None
        for times in layout.stretches(which):
            now = [layout.rounded(row, times.start) for row in which]
            if seen is None:
                if most := max(now):
                    out[:, :, :most] = self._decoded(slots, 0, most)
                for place, row in enumerate(which):
                    if not step.lengths[row]:
                        continue
                    end, base = step.starts[row] + step.lengths[row], layout.bases[row]
                    out[place, :, now[place] : end] = staged[row, now[place] - base : end - base].transpose(0, 1)
            for place, (before, after) in enumerate(zip(seen or now, now, strict=True)):
                if after > before:
                    out[place, :, before:after] = self._decoded([slots[place]], before, after)[0]
            seen = now
            yield times, out
        self.unseen -= set(which)
        if not self.unseen:
            self.staged = None

    def _decoded(self, slots: list[int], start: int, end: int) -> Tensor:
        """Whole groups of some slots, from token to token: [slots, h, tokens, d]."""
        groups = slice(start // self.scheme.group, end // self.scheme.group)
        picked = [kind[slots, :, groups] for kind in self.codes]
        return decode(Codes(*picked), self.scheme.bits).flatten(2, 3)

    def reach(self, slot: int, position: int) -> int:
        return position if self.scheme.rounded(position) >= self.since[slot] else 0

    def copy(self, source: int, target: int, length: int) -> None:
        groups = length // self.scheme.group
        for kind in self.codes:
            kind[target, :, :groups] = kind[source, :, :groups]
        self.recent[target] = self.recent[source]
        self.since[target] = self.since[source]

    def export(self, slot: int, length: int, start: int = 0) -> dict[str, Any]:
        assert start == 0
        groups = length // self.scheme.group
        codes = Codes(*(kind[slot, :, :groups].clone() for kind in self.codes))
        return {"codes": codes, "recent": self.recent[slot].clone(), "since": self.since[slot], "length": length}

    def load(self, slot: int, data: Any, start: int = 0) -> int:
        assert start == 0
        for kind, part in zip(self.codes, data["codes"], strict=True):
            kind[slot, :, : part.shape[1]] = part
        self.recent[slot], self.since[slot] = data["recent"], data["since"]
        return data["length"]

    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.codes, self.recent))


@dataclass(frozen=True)
class Layout:
    """Where the tokens of one call go: the same in every layer, so made once a call. Rows without tokens have no part in it.

    Attributes:
        bases: first token of each row that is staged, a multiple of the group.
        span: tokens staged of a row, the same for all, whole groups.
        old, old_in_ring: where earlier tokens go in the staged rows, and where in the ring they come from.
        new, rows, times: where the call's own tokens go, and which of the call's they are.
        last, last_in_ring: the tokens that the ring keeps.
        closed: (row, slot, group, place among the staged row's groups) of every group that is rounded now.
    """

    step: Step
    scheme: Scheme
    bases: list[int]
    span: int
    old: Tensor
    old_in_ring: Tensor
    new: Tensor
    rows: Tensor
    times: Tensor
    last: Tensor
    last_in_ring: Tensor
    closed: list[tuple[int, int, int, int]]

    @classmethod
    def of(cls, step: Step, scheme: Scheme) -> Layout:
        group, kept = scheme.group, scheme.kept
        bases = [scheme.rounded(start) for start in step.starts]
        ends = [start + length for start, length in zip(step.starts, step.lengths, strict=True)]
        span = -(-max(end - base for base, end in zip(bases, ends, strict=True)) // group) * group
        numbers: dict[str, list[Tensor]] = {
            name: [torch.zeros(0, dtype=torch.int64)] for name in ("old", "old_in_ring", "new", "rows", "times", "last", "last_in_ring")
        }
        closed = []
        for row, (slot, start, end, base) in enumerate(zip(step.slots, step.starts, ends, bases, strict=True)):
            if start == end:
                continue
            place = row * span - base  # of token 0 in the staged rows
            old, new, last = torch.arange(base, start), torch.arange(start, end), torch.arange(max(start, end - kept), end)
            numbers["old"].append(place + old)
            numbers["old_in_ring"].append(slot * kept + old % kept)
            numbers["new"].append(place + new)
            numbers["rows"].append(torch.full_like(new, row))
            numbers["times"].append(new - start)
            numbers["last"].append(place + last)
            numbers["last_in_ring"].append(slot * kept + last % kept)
            closed += [(row, slot, at // group, (at - base) // group) for at in range(base, scheme.rounded(end), group)]
        return cls(step, scheme, bases, span, **{name: torch.cat(parts).to(step.device) for name, parts in numbers.items()}, closed=closed)

    def rounded(self, row: int, time: int) -> int:
        """How many tokens the row's query at a time of the call sees rounded; padding sees what the last real query sees."""
        last = self.step.lengths[row] - 1
        return self.scheme.rounded(self.step.starts[row] + min(time, last) + 1) if last >= 0 else 0

    def stretches(self, rows: range | tuple[int, ...]) -> list[slice]:
        """The call's time, cut wherever a group of one of the rows changes over."""
        cuts = {0, self.step.time}
        for row in rows:
            start, length = self.step.starts[row], self.step.lengths[row]
            first = -(start + 1 - self.scheme.window) % self.scheme.group  # where a group ends `window` before a query's end
            cuts |= {time for time in range(first, length, self.scheme.group) if self.rounded(row, time) > self.rounded(row, time - 1)}
        ordered = sorted(cuts)
        return [slice(begin, end) for begin, end in zip(ordered, ordered[1:], strict=False)]
