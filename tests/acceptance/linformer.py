"""Keys and values projected to more rows lose less of what attention mixes, where texts have something to compress."""

from __future__ import annotations

import torch
from torch import Tensor

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared, counted
from steelyard.core.errors import RecipeError
from steelyard.model.mixers.attention import Attention, AttentionPlan
from steelyard.model.mixers.linformer import Linformer, LinformerLever, LinformerPlan
from steelyard.model.new import DecoderPlan
from steelyard.model.step import Step
from steelyard.weigh.tasks.task import Metric

CPU = torch.device("cpu")
WIDTH, HEADS, TIME = 32, 2, 64
ERROR = Metric("attention_error", "quality", "of attention", False, margin=0.02)


def texts(count: int, generator: torch.Generator, *, smooth: bool) -> Tensor:
    """Random texts [b, t, width]: neighbours alike (sums of a few slow waves), or every token on its own."""
    if not smooth:
        return torch.randn(count, TIME, WIDTH, generator=generator)
    place = torch.arange(TIME)[:, None] / TIME
    waves = torch.cos(torch.pi * place * torch.arange(12))  # [t, 12]
    fading = 1 / (1 + torch.arange(12)) ** 0.5
    return 1.5 * waves @ (torch.randn(count, 12, WIDTH, generator=generator) * fading[:, None])


def fitted(attention: Attention, rows: int, steps: int, seed: int, *, smooth: bool) -> Linformer:
    """A Linformer with attention's own maps whose projections are taught to give what attention gives."""
    generator = torch.Generator().manual_seed(seed)
    part = LinformerPlan(HEADS, WIDTH // HEADS, rows, TIME).build(WIDTH).requires_grad_(False)
    for name in ("query", "key", "value", "output"):
        getattr(part, name).storage = getattr(attention, name).storage
    means = torch.eye(rows).repeat_interleave(TIME // rows, 1) * rows / TIME  # each row begins as the mean of a stretch
    for projection in (part.project_keys, part.project_values):
        projection.copy_(means + 0.01 * torch.randn(means.shape, generator=generator))
    learned = [part.project_keys.requires_grad_(), part.project_values.requires_grad_()]
    optimizer, step = torch.optim.Adam(learned, 0.02), Step.whole(32, TIME, CPU)
    for number in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - number / steps)
        x = texts(32, generator, smooth=smooth)
        with torch.no_grad():
            target = attention(x, step)
        optimizer.zero_grad()
        (part(x, step) - target).square().mean().backward()
        optimizer.step()
    return part.requires_grad_(False)


def errors(attention: Attention, part: Linformer, count: int, *, smooth: bool) -> list[float]:
    """Relative error of each of some fresh texts."""
    x = texts(count, torch.Generator().manual_seed(10_000), smooth=smooth)
    step = Step.whole(count, TIME, CPU)
    with torch.no_grad():
        target = attention(x, step)
        wrong = (part(x, step) - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)
    return wrong.tolist()


def refused() -> bool:
    try:
        DecoderPlan.model_validate({"mixer": "linformer"}).check()
    except RecipeError:
        return True
    return False


def run(bench: Bench) -> Finding:
    sizes = bench.pick((2, 4, 8, 16, 32), (2, 4, 8))
    steps, count, seeds = bench.pick(300, 60), bench.pick(64, 16), bench.pick((1, 2, 3), (1,))
    found: dict[tuple[int, bool], list[float]] = {}
    for seed in seeds:
        torch.manual_seed(seed)
        attention = AttentionPlan(HEADS, HEADS, WIDTH // HEADS, causal=False).build(WIDTH).requires_grad_(False)
        for linear in (attention.query, attention.key, attention.value, attention.output):
            linear.weight.normal_(std=WIDTH**-0.5)
        for smooth in (True, False):
            for rows in sizes if smooth else (2, 8):
                part = fitted(attention, rows, steps, seed, smooth=smooth)
                found.setdefault((rows, smooth), []).extend(errors(attention, part, count, smooth=smooth))
    means = {rows: sum(found[rows, True]) / len(found[rows, True]) for rows in sizes}
    bench.say("errors " + ", ".join(f"{rows} rows: {mean:.3f}" for rows, mean in means.items()))
    falls = sum(means[b] < means[a] for a, b in zip(sizes, sizes[1:], strict=False))
    names = [f"text {number}" for _ in seeds for number in range(count)]
    compressible = compared("linformer", "texts whose neighbours are alike", ERROR, found[2, True], found[8, True], names)
    white = compared("linformer", "texts of unrelated tokens", ERROR, found[2, False], found[8, False], names)
    gain = [abs(sum(found[2, s]) - sum(found[8, s])) / len(found[2, s]) for s in (True, False)]
    said = refused()
    return Finding(
        [
            Claim("eight rows lose less than two", compressible, ("better",)),
            Claim(
                "each doubling of rows loses less",
                counted(
                    "linformer",
                    f"2 to {sizes[-1]} rows",
                    "falls",
                    falls,
                    len(sizes) - 1,
                    "identical" if falls == len(sizes) - 1 else "worse",
                ),
                ("identical",),
            ),
            Claim(
                "a decoder refuses it",
                counted("linformer", "a recipe for a decoder", "refused", int(said), 1, "identical" if said else "worse"),
                ("identical",),
            ),
            Claim(
                "where tokens are unrelated there is little to compress: the same rows gain less than half as much",
                counted(
                    "unrelated tokens",
                    white.task,
                    "little gained",
                    int(gain[1] < gain[0] / 2),
                    1,
                    "identical" if gain[1] < gain[0] / 2 else "worse",
                ),
                ("identical",),
                control=True,
            ),
        ],
        {"linformer": [LinformerLever()]},
        [f"mean relative error by rows, smooth texts: { {rows: round(mean, 3) for rows, mean in means.items()} }; gains {gain}"],
    )


EXPERIMENT = Experiment(
    "linformer",
    "linformer",
    "The error of attention over projected keys and values falls as the rows they are projected to grow in number; a decoder refuses it.",
    "Texts whose tokens have nothing to do with each other cannot be compressed, so the same rows must gain little on them.",
    "mechanism",
    run,
)
