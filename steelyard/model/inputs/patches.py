"""Bytes in patches (MegaByte): blocks run over patches of a few bytes, and small blocks inside each patch predict its bytes.

patch k:  p_k = W_in [e_{kP} .. e_{kP+P-1}],  g = norm(blocks(p))           the blocks run once a patch (arXiv:2305.07185, section 2)
byte t:   h_t = inside(e_t + W_j g_k + o_j),  k the last patch that ended, at or before t; j the bytes since

No byte may know a later one. A vector of a patch holds all its bytes, so it is heard from the patch's last byte on, which predicts the
first byte of the next patch; inside, a byte hears those since then. The paper shifts both sequences by one to the same end, gives each
place in a patch a slice of the global vector where here each has a map of the whole of it, and has a second table of bytes, where here
both models read one.

Patches may also end where the next byte is hard to tell (arXiv:2412.09871, section 2.3): after byte b where H(next | b) is above a
threshold, and at P bytes in any case. Whether a patch ends is thus known from its last byte and its length, the same in steps as in
whole texts. The paper asks a small byte model of a whole context; here it is one of pairs of bytes, counted once (`byte_pairs.py`),
whose answer is a set of bytes in the plan.

Memory: the bytes themselves, what the blocks said of each patch, and the blocks' own memory of patches. A text may therefore be cut
anywhere, inside patches too: what there is of the current patch is read again, at most P bytes, by the small blocks alone.
Cost: 1/P of the blocks' operations, 1/P^2 of their attention's; the small blocks' for each byte (in generation for each byte since the
patch began).

Shapes: b rows, t time, n patches, g groups (the bytes that hear the same patch), p places in a patch, d width of bytes, w of patches.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn

from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.model.channels.gated import GatedLever
from steelyard.model.cost import flops
from steelyard.model.depth.stacked import Block, BlockPlan, StackedPlan
from steelyard.model.inputs.byte_pairs import hardest
from steelyard.model.inputs.tokens import Tokens, TokensPlan
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers.attention import AttentionLever
from steelyard.model.new import DecoderPlan
from steelyard.model.norms import NormPlan
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.state import State, Storage, zeros
from steelyard.model.step import Step
from steelyard.model.trunk import TrunkPlan

READ = "bytes"
"""Under this name a call's `carry` holds the bytes read, int64 [b, t], and what makes vectors of bytes."""

POOL = "patches"
ROWS_TOGETHER = 64
"""Deterministic calls fill products up to multiples of so many rows, which every tile of `generate/invariance.py` divides."""


class Bytes(Tokens):
    """The table of bytes; what was read is left for the blocks, which may need a patch's beginning again later."""

    def forward(self, ids_bt: Tensor, step: Step) -> Tensor:
        step.carry[READ] = (ids_bt, self.vectors)
        return self.vectors(ids_bt)

    def vectors(self, ids_bt: Tensor) -> Tensor:
        """[b, t, d] in the stream's type."""
        x = self._rows(ids_bt).to(self.stream)
        return x if self.norm is None else self.norm(x)


@dataclass(frozen=True)
class BytesPlan(TokensPlan):
    """`vocabulary` rows: 256 and the special tokens. A `norm` keeps what is said of patches from drowning the bytes it joins: without,
    300 steps on Python came no further than how often each byte occurs."""

    def build(self, width: int) -> Bytes:
        return Bytes(width, self)


@dataclass(frozen=True)
class Cut:
    """Where the bytes of a call stand among patches.

    Attributes:
        ends: which bytes are a patch's last, bool [b, t]; padding is none.
        opens: which begin a group: they end a patch, or are a text's or the call's first.
        fresh: which are a text's first, bool [b, t].
        since: bytes since a byte that ends patches, or since the text's beginning, itself included; int64 [b, t].
        place: in the group, int64 [b, t]; 0 is the byte that ended the patch before, or the beginning of a text.
        group: of the call, int64 [b, t].
        patch: patches of the row that ended in the call at or before the byte, int64 [b, t].
    """

    ends: Tensor
    opens: Tensor
    fresh: Tensor
    since: Tensor
    place: Tensor
    group: Tensor
    patch: Tensor

    @property
    def counts(self) -> list[int]:
        """Patches that each row ends in the call."""
        return self.patch[:, -1].tolist()


def cut(step: Step, size: int, ending_bt: Tensor | None = None, before_b: Tensor | None = None) -> Cut:
    """Patches of `size` bytes, counted from the beginning of each text and anew after each byte that ends one.

    Args:
        step: the call.
        size: most bytes of a patch.
        ending_bt: which bytes end a patch whatever its length; None for none.
        before_b: bytes before the call since the last of those; needed where there are any.
    """
    time = torch.arange(step.time, device=step.device)
    starts = torch.tensor(step.starts, device=step.device)[:, None]
    fresh = (time == 0) & (starts == 0)
    if step.begins is not None:
        fresh = fresh | step.begins
    if ending_bt is None or before_b is None:
        since = step.positions + 1
        all_ends = since % size == 0
    else:
        anew = fresh.expand(ending_bt.shape).clone()
        anew[:, 1:] |= ending_bt[:, :-1]
        last = torch.where(anew, time, -1).cummax(1).values
        since = torch.where(last >= 0, time - last, before_b[:, None] + time) + 1
        all_ends = ending_bt | (since % size == 0)
    opens = all_ends | fresh | (time == 0)
    ends = all_ends if step.real is None else all_ends & step.real
    return Cut(ends, opens, fresh, since, torch.where(all_ends, 0, since % size), opens.cumsum(1) - 1, ends.cumsum(1))


@dataclass(frozen=True)
class PatchedPlan:
    """What runs over patches and inside them.

    Attributes:
        over: the blocks that run over patches.
        width: of a patch's vector.
        inside: the blocks that run inside patches.
        size: most bytes of a patch.
        norm: of what is said of a patch.
        ends: bytes after which a patch ends whatever its length.
        mean: bytes of a patch on average, for counting operations.
    """

    over: Any
    width: int
    inside: StackedPlan
    size: int
    norm: NormPlan
    ends: tuple[int, ...] = ()
    mean: float | None = None

    @property
    def blocks(self) -> tuple[BlockPlan, ...]:
        return self.over.blocks

    def build(self, width: int) -> Patched:
        return Patched(width, self)


class Patched(nn.Module):
    """x [b, t, d] of bytes -> [b, t, d], each of them aware of the bytes at or before it alone."""

    grid = 1
    causal = True
    vector_parameters = ("start", "places")

    def __init__(self, width: int, plan: PatchedPlan):
        super().__init__()
        self.plan = plan
        self.into = Linear(plan.size * width, plan.width)
        self.over = plan.over.build(plan.width)
        self.norm = plan.norm.build(plan.width)
        self.out = Linear(plan.width, plan.size * width)
        self.inside = plan.inside.build(width)
        self.start = nn.Parameter(torch.zeros(width))  # stands before a text's first byte
        self.places = nn.Parameter(torch.zeros(plan.size, width))

    def __iter__(self) -> Iterator[Block]:
        blocks: list[Any] = [*self.over, *self.inside]
        return iter(blocks)

    def __len__(self) -> int:
        return len(self.over) + len(self.inside)

    def forward(self, x_btd: Tensor, step: Step, state: State | None) -> Tensor:
        _refuse_sites(step)
        ids_bt, vectors = step.carry[READ]
        pool: PatchPool | None = state[POOL] if state is not None else None
        ending_bt = torch.isin(ids_bt, torch.tensor(self.plan.ends, device=ids_bt.device)) if self.plan.ends else None
        where = cut(step, self.plan.size, ending_bt, pool.since_before(step) if pool else ids_bt.new_zeros(len(ids_bt)))
        before_bpd = x_btd.new_zeros(len(x_btd), self.plan.size - 1, x_btd.shape[2])
        if pool is not None:
            before_bpd = pool.earlier(step, vectors, before_bpd)
        both_bsd = torch.cat((before_bpd, x_btd), 1)
        said_bnp = self._over(both_bsd, where, step, pool)
        y_btd = self._inside(x_btd, both_bsd, said_bnp, where, step, pool)
        if pool is not None:
            pool.write(step, ids_bt, where, said_bnp, ending_bt)
        return y_btd

    def _over(self, both_bsd: Tensor, where: Cut, step: Step, pool: PatchPool | None) -> Tensor:
        """What the blocks say of each patch that ends in the call, as bytes at each place hear it: [b, n, P d]."""
        size, counts = self.plan.size, where.counts
        # Where others compute more lines there is always one, be it of no bytes: they may wait for what this process says of its own.
        count = max(_filled(max(counts), step), int(step.others is not None))
        rows, times = where.ends.nonzero(as_tuple=True)
        numbers = where.patch[rows, times] - 1
        index = times[:, None] + torch.arange(size, device=step.device)  # in `both`, whose first size - 1 precede the call
        patches = both_bsd.new_zeros(len(both_bsd), count, size, both_bsd.shape[2])
        found = both_bsd[rows[:, None], index]
        if self.plan.ends:  # a shorter patch stands at the end of its places
            length = (where.since[rows, times] - 1) % size + 1
            found = found * (torch.arange(size, device=step.device) >= size - length[:, None])[..., None]
        patches[rows, numbers] = found
        if not count:
            return both_bsd.new_zeros(len(both_bsd), 0, self.out.outputs)
        segments = None
        if step.segments is not None:
            segments = step.segments.new_full((len(both_bsd), count), -1)
            segments[rows, numbers] = step.segments[rows, times]
        patch_step = step.changed(
            starts=tuple(pool.patches(slot) for slot in step.slots) if pool else (0,) * len(counts),
            lengths=tuple(counts),
            time=count,
            segments=segments,
            program=None,
            capacity=pool.over.tokens if pool else 0,
        )
        y_bnw = self.over(self.into(patches.flatten(2), patch_step), patch_step, pool.over if pool else None)
        return self.out(self.norm(y_bnw), patch_step).to(both_bsd.dtype)

    def _inside(self, x_btd: Tensor, both_bsd: Tensor, said_bnp: Tensor, where: Cut, step: Step, pool: PatchPool | None) -> Tensor:
        """The small blocks, each group a text of its own."""
        size, width = self.plan.size, x_btd.shape[2]
        rows = torch.arange(len(x_btd), device=step.device)[:, None]
        groups, places = _filled(int(where.group.max()) + 1, step), int(where.place.max()) + 1
        read = x_btd.new_zeros(len(x_btd), groups, places, width)
        heard = x_btd.new_zeros(len(x_btd), groups, size * width)
        read[rows, where.group, where.place] = x_btd
        ended, times = where.ends.nonzero(as_tuple=True)
        heard[ended, where.group[ended, times]] = said_bnp[ended, where.patch[ended, times] - 1]
        first, times = (where.fresh & (where.place > 0)).nonzero(as_tuple=True)
        read[first, where.group[first, times], 0] = self.start.to(read.dtype)
        if pool is not None and max(step.starts):
            going_on = ~where.fresh[:, 0] & (where.place[:, 0] > 0)
            place = torch.arange(places, device=step.device)
            back = (where.place[:, :1] - place).clamp(0)  # bytes before the call's first
            earlier = both_bsd[rows, (size - 1 - back).clamp(0)]
            earlier[:, 0] = torch.where(pool.none_yet(step)[:, None], self.start.to(read.dtype), earlier[:, 0])
            read[:, 0] = torch.where((going_on[:, None] & (back > 0))[..., None], earlier, read[:, 0])
            heard[:, 0] = torch.where(going_on[:, None], pool.last(step).to(heard.dtype), heard[:, 0])
        told = read + heard.unflatten(2, (size, width))[:, :, :places] + self.places[:places].to(read.dtype)
        adapters = None if step.adapters is None else tuple(index for index in step.adapters for _ in range(groups))
        texts = len(x_btd) * groups
        group_step = step.changed(
            slots=(),
            starts=(0,) * texts,
            lengths=(places,) * texts,
            time=places,
            segments=None,
            adapters=adapters,
            side={},
            program=None,
            capacity=0,
        )
        y = self.inside(told.flatten(0, 1), group_step, None)
        return y.unflatten(0, (len(x_btd), groups))[rows, where.group, where.place]

    def parts_with_memory(self) -> dict[str, Any]:
        """One part: this, which has the blocks' memory inside its own."""
        return {POOL: self}

    def new_pool(self, slots: int, tokens: int, storage: Storage) -> PatchPool:
        patches = tokens if self.plan.ends else tokens // self.plan.size + 1
        pools = {name: part.new_pool(slots, patches, storage) for name, part in self.over.parts_with_memory().items()}
        return PatchPool(State(pools, slots, patches), tokens, self.out.outputs, self.start.device)

    def flops(self, time: int) -> int:
        """Forward operations over a text of `time` bytes."""
        patches, size = int(time / (self.plan.mean or self.plan.size)), self.plan.size
        maps = flops(self.into, patches) + flops(self.out, patches)
        return maps + flops(self.over, patches) + flops(self.inside, size) * -(-time // size)


class PatchPool:
    """What is remembered of texts in patches: the bytes, what was said of each patch, and the blocks' memory of patches."""

    def __init__(self, over: State, tokens: int, width: int, device: torch.device):
        slots = over.slots
        self.over = over
        self.ids = zeros((slots, tokens), torch.int32, device)
        self.since = zeros((slots, tokens), torch.int32, device)
        self.said = zeros((slots, over.tokens, width), torch.float32, device)
        self.lengths = [0] * slots
        self.ends: list[list[int]] = [[] for _ in range(slots)]  # bytes read when each patch had ended

    @property
    def in_parts(self) -> bool:
        return self.over.in_parts

    def patches(self, slot: int, position: int | None = None) -> int:
        """That have ended, or had after `position` bytes."""
        return len(self.ends[slot]) if position is None else bisect.bisect_right(self.ends[slot], position)

    def earlier(self, step: Step, vectors: Callable[[Tensor], Tensor], before_bpd: Tensor) -> Tensor:
        """Vectors of the bytes before the call, the last at the end; zeros where there are fewer than a patch."""
        for slot, start, length in zip(step.slots, step.starts, step.lengths, strict=True):
            assert not length or self.lengths[slot] == start, f"slot {slot} holds {self.lengths[slot]} tokens, the call starts at {start}"
        if not max(step.starts):
            return before_bpd
        index = self._starts(step)[:, None] - torch.arange(before_bpd.shape[1], 0, -1, device=step.device)
        found = vectors(self.ids[self._slots(step)[:, None], index.clamp(0)].long())
        return torch.where((index >= 0)[..., None], found, before_bpd)

    def since_before(self, step: Step) -> Tensor:
        """Bytes before the call since one that ends patches: int64 [b]."""
        starts = self._starts(step)
        return self.since[self._slots(step), (starts - 1).clamp(0)].long() * (starts > 0)

    def none_yet(self, step: Step) -> Tensor:
        """Which rows have had no patch that ended before the call: bool [b]."""
        return self._patches(step) == 0

    def last(self, step: Step) -> Tensor:
        """What was said of each row's last patch before the call; zeros where there was none: [b, P d]."""
        patches = self._patches(step)
        return self.said[self._slots(step), (patches - 1).clamp(0)] * (patches > 0)[:, None]

    def _starts(self, step: Step) -> Tensor:
        return torch.tensor(step.starts, device=step.device)

    def _slots(self, step: Step) -> Tensor:
        return torch.tensor(step.slots, device=step.device)

    def _patches(self, step: Step) -> Tensor:
        return torch.tensor([self.patches(slot) for slot in step.slots], device=step.device)

    def write(self, step: Step, ids_bt: Tensor, where: Cut, said_bnp: Tensor, ending_bt: Tensor | None) -> None:
        """Keeps a call's bytes and patches."""
        since = where.since if ending_bt is None else torch.where(ending_bt, 0, where.since)
        for row, (slot, start, length, count) in enumerate(zip(step.slots, step.starts, step.lengths, where.counts, strict=True)):
            if length:
                first = self.patches(slot)
                self.ids[slot, start : start + length] = ids_bt[row, :length].int()
                self.since[slot, start : start + length] = since[row, :length].int()
                self.said[slot, first : first + count] = said_bnp[row, :count].float()
                self.ends[slot] += (where.ends[row].nonzero().flatten() + start + 1).tolist()
                self.lengths[slot] = start + length

    def _left(self, slot: int, length: int) -> None:
        """Only the first `length` bytes are there now."""
        self.lengths[slot] = length
        del self.ends[slot][self.patches(slot, length) :]

    def free(self, slot: int) -> None:
        self._left(slot, 0)
        self.over.free(slot)

    def rewind(self, slot: int, position: int) -> int:
        """Goes back to any byte whose patches the blocks can go back to, else to the end of the patch they can."""
        asked = min(position, self.lengths[slot])
        patches = self.patches(slot, asked)
        left = self.over.rewind(slot, patches)
        if left >= patches:
            self._left(slot, asked)
            return position
        self._left(slot, self.ends[slot][left - 1] if left else 0)
        return self.lengths[slot]

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        self.over.fork(source, target)
        for kept in (self.ids, self.since, self.said):
            kept[target] = kept[source]
        self.lengths[target], self.ends[target] = self.lengths[source], list(self.ends[source])
        if length is not None:
            self.rewind(target, length)

    def export(self, slot: int, start: int = 0, stop: int | None = None) -> dict[str, Any]:
        stop = self.lengths[slot] if stop is None else stop
        first, last = self.patches(slot, start), self.patches(slot, stop)
        return {
            "ids": self.ids[slot, start:stop].clone(),
            "since": self.since[slot, start:stop].clone(),
            "said": self.said[slot, first:last].clone(),
            "ends": torch.tensor(self.ends[slot][first:last], dtype=torch.int64),
            "over": self.over.export(slot, first, last),
        }

    def load(self, slot: int, data: Mapping[str, Any], start: int = 0) -> None:
        self._left(slot, start)
        first, ids, said = self.patches(slot), data["ids"], data["said"]
        self.over.load(slot, data["over"], first)
        self.ids[slot, start : start + len(ids)] = ids
        self.since[slot, start : start + len(ids)] = data["since"]
        self.said[slot, first : first + len(said)] = said
        self.ends[slot] += data["ends"].tolist()
        self.lengths[slot] = start + len(ids)

    def bytes(self) -> int:
        return self.over.bytes() + self.ids.nbytes + self.since.nbytes + self.said.nbytes


def _filled(count: int, step: Step) -> int:
    return -(-count // ROWS_TOGETHER) * ROWS_TOGETHER if step.deterministic else count


def _refuse_sites(step: Step) -> None:
    program = step.program
    if program is None:
        return
    named = [*program.read, *program.add]
    if program.skip or program.stop is not None or any(site.startswith("blocks.") for site in named):
        raise UnsupportedError("blocks that run over patches of bytes have no places for single bytes", do="Leave steering and exits out.")


class PatchesLever(PartLever):
    """Bytes in patches as a new decoder's inputs: its blocks then run over patches."""

    name: ClassVar[str] = "patches"
    idea: ClassVar[str] = (
        "The decoder's blocks run once for every few bytes, on all of them together, and a small decoder inside each patch predicts its "
        "bytes. Texts need no tokenizer but their bytes, at about the cost of tokens."
    )
    equation: ClassVar[str] = "p_k = W_in [e_{kP} .. e_{kP+P-1}];  g = blocks(p);  h_t = inside(e_t + W_j g_k + o_j),  k ended by t"
    paper: ClassVar[str] = "arXiv:2305.07185; entropy patches arXiv:2412.09871"
    cost: ClassVar[str] = "1/size of the blocks' operations and memory, and a small decoder's for every byte"
    identity: ClassVar[Any] = "there is none: the small decoder stands after the blocks whatever the size"
    place: ClassVar[Any] = "inputs"
    main: ClassVar[str | None] = "size"

    size: int = Field(4, ge=2, le=1024, description="bytes of a patch")
    width: int | None = Field(None, ge=2, le=2**17, description="of the small decoder and the table of bytes; unset: half the decoder's")
    depth: int = Field(2, ge=1, le=64, description="blocks of the small decoder")
    mean: float | None = Field(
        None,
        gt=1,
        description="entropy patches: bytes of one on average, `size` at most; they end after bytes whose next is hardest to tell",
    )
    data: str | None = Field(None, description="the corpus whose pairs of bytes tell which those are")
    ends: tuple[int, ...] = Field((), description="those bytes, once they are known")

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> PatchesLever:
        if (self.mean is None) != (self.data is None):
            raise ValueError("patches that end by entropy need both: their `mean` length and the `data` that tells where")
        if self.mean is not None and self.mean > self.size:
            raise ValueError(f"patches of at most {self.size} bytes are not {self.mean:g} long on average: raise `size`")
        return self

    @property
    def learns_from(self) -> str | None:
        return None if self.ends else self.data

    def learned(self, texts: Iterable[str]) -> PatchesLever:
        assert self.mean is not None
        return self.model_copy(update={"ends": hardest(texts, self.mean, self.size)})

    def plan(self, decoder: Decoder, layer: int) -> BytesPlan:
        assert decoder.vocabulary is not None
        if self.size > decoder.context:
            raise RecipeError(
                f"`patches`: a patch of {self.size} bytes is longer than the context of {decoder.context}", do="Make it shorter."
            )
        return BytesPlan(decoder.vocabulary, norm=decoder.norm_plan)

    def around(self, decoder: DecoderPlan, trunk: TrunkPlan) -> TrunkPlan:
        if (self.mean is not None or self.ends) and (decoder.tokenizer.model is not None or decoder.tokenizer.kind != "bytes"):
            raise RecipeError(
                "`patches`: which bytes end a patch by entropy is counted in bytes, but the tokenizer gives other tokens",
                do="Leave `tokenizer` out (or say `kind: bytes`), or leave out `mean` and `data`.",
            )
        width = self.width or max(2, decoder.width // 2)
        small = decoder.model_copy(update={"width": width, "depth": self.depth, "context": max(self.size, 2)})
        block = BlockPlan(AttentionLever().plan(small, 0), GatedLever().plan(small, 0), before=decoder.norm_plan)  # type: ignore[call-arg]
        patched = PatchedPlan(
            trunk.depth, decoder.width, StackedPlan((block,) * self.depth), self.size, decoder.norm_plan, self.ends, self.mean
        )
        return dataclasses.replace(trunk, width=width, depth=patched)
