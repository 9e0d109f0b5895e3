"""Directions inside a model that tell two kinds of text apart, fitted from pairs and kept as safetensors.

    means: theta = mean(positive) - mean(negative), of unit length          (the mass-mean shift of arXiv:2306.03341)
    probe: theta = the weights of a logistic regression that tells them apart, of unit length
    spread = standard deviation of all activations along theta

How well a direction tells pairs apart is measured on pairs it was not fitted on. That shows that the difference can be read there,
not that the model acts upon it: what a direction does is seen only when it is added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.core.errors import DataError, ModelFileError, SteelyardError
from steelyard.core.files import atomic
from steelyard.model.files.safetensors_file import SafetensorsFile
from steelyard.model.files.strict_json import parse_object
from steelyard.model.model import Model
from steelyard.model.sites import SiteProgram
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk

Fit = Literal["means", "probe"]
Tokens = Literal["last", "mean"]

FOLDS = 5
MOST_ROWS = 100_000
RIDGE = 1e-2
"""Weight decay of the probe, on activations of unit variance."""


@dataclass(frozen=True)
class Pair:
    """Two texts that differ in what a direction is to mean."""

    positive: str
    negative: str


@dataclass(frozen=True)
class Direction:
    """A direction at one site.

    Attributes:
        vector: float32 [width], of unit length, from negative to positive.
        spread: standard deviation of activations along it.
        accuracy: share of pairs, not fitted on, whose positive text lies further along than its negative one; None = not measured.
    """

    vector: Tensor
    spread: float
    accuracy: float | None = None


def read_pairs(path: Path) -> tuple[list[Pair], bytes]:
    """Rows `{"positive": text, "negative": text}` of a JSONL file, and its bytes.

    Raises:
        DataError: it cannot be read, holds a bad row, or fewer than two pairs.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=str(path), do='Name a JSONL file of {"positive", "negative"}.'
        ) from error
    pairs = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = parse_object(line, where)
        except ModelFileError as error:
            raise DataError(error.what, where=where, do='Write {"positive": "...", "negative": "..."}.') from None
        if set(row) != {"positive", "negative"} or not all(isinstance(text, str) and text.strip() for text in row.values()):
            raise DataError("not a pair of texts", where=where, do='Write {"positive": "...", "negative": "..."}, both with words in them.')
        pairs.append(Pair(row["positive"], row["negative"]))
        if len(pairs) > MOST_ROWS:
            raise DataError(f"more than {MOST_ROWS} pairs", where=str(path))
    if len(pairs) < 2:
        raise DataError(f"{len(pairs)} pair{'s' * (len(pairs) != 1)}", where=str(path), do="Give at least two; dozens are better.")
    return pairs, content


def check_sites(sites: Sequence[str], trunk: Trunk, where: str = "steering") -> None:
    """Refuses sites that the trunk does not have."""
    blocks = len(trunk.plan.depth.blocks)
    for site in sites:
        match = re.fullmatch(r"blocks\.(\d{1,6})\.(input|mixer|channel)", site)
        if site != "final_norm" and (match is None or int(match[1]) >= blocks):
            raise SteelyardError(
                f"no site is called {site!r:.60}",
                where=where,
                do=f"Sites are blocks.0-{blocks - 1} with .input, .mixer or .channel, and final_norm.",
            )


def activations(model: Model, texts: Sequence[str], sites: Sequence[str], tokens: Tokens) -> dict[str, Tensor]:
    """Site -> float32 [len(texts), width]: what stands there at each text's last token, or on average over its tokens.

    A begin- or end-of-text token goes ahead and is left out: the first position of a text holds no meaning but a huge norm.

    Raises:
        ContextLengthError: a text longer than the model's context.
    """
    tokenizer = model.tokenizer
    assert tokenizer is not None
    start = tokenizer.bos_id if tokenizer.bos_id is not None else next(iter(tokenizer.eos_ids), 0)
    rows: dict[str, list[Tensor]] = {site: [] for site in sites}
    for text in texts:
        ids = tokenizer.encode(text)
        if not ids:
            raise DataError(f"{text!r:.40} has no tokens in this vocabulary", where="steering")
        ids = ids if len(ids) > 1 and ids[0] == start else [start, *ids]
        model.check_length(len(ids))
        model.check_ids(ids)
        program = SiteProgram(read=frozenset(sites))
        with torch.inference_mode():
            step = replace(Step.whole(1, len(ids), model.trunk.device), program=program)
            model.trunk(torch.tensor([ids], device=model.trunk.device), step)
        for site in sites:
            value_td = program.readings[site][0, 1:].float().cpu()
            rows[site].append(value_td[-1] if tokens == "last" else value_td.mean(0))
    return {site: torch.stack(values) for site, values in rows.items()}


def fit(model: Model, pairs: Sequence[Pair], sites: Sequence[str], how: Fit = "means", tokens: Tokens = "mean") -> dict[str, Direction]:
    """A direction at every site.

    Raises:
        DataError: the pairs do not differ at a site, or activations are no numbers.
    """
    check_sites(sites, model.trunk)
    positive = activations(model, [pair.positive for pair in pairs], sites, tokens)
    negative = activations(model, [pair.negative for pair in pairs], sites, tokens)
    out = {}
    for site in sites:
        p_nd, n_nd = positive[site], negative[site]
        vector = direction(p_nd, n_nd, how, site)
        spread = float((torch.cat((p_nd, n_nd)) @ vector).std())
        out[site] = Direction(vector, spread, held_out(p_nd, n_nd, how, site))
    return out


def direction(positive_nd: Tensor, negative_nd: Tensor, how: Fit, site: str = "") -> Tensor:
    """The unit vector [width] from negative to positive."""
    vector = positive_nd.mean(0) - negative_nd.mean(0) if how == "means" else probe(positive_nd, negative_nd)
    length = float(vector.norm())
    scale = float(torch.cat((positive_nd, negative_nd)).norm(dim=-1).mean())
    if not length > 1e-6 * scale:  # NaN too
        raise DataError("the positive and the negative texts do not differ there", where=f"steering, {site}", do="Give pairs that differ.")
    return vector / length


def probe(positive_nd: Tensor, negative_nd: Tensor) -> Tensor:
    """Weights [width] of a logistic regression, in the units of the activations."""
    right = torch.cat((torch.ones(len(positive_nd)), torch.zeros(len(negative_nd))))
    return logistic(torch.cat((positive_nd, negative_nd)), right)[0].float()


def logistic(x_nd: Tensor, y_n: Tensor, decay: float = RIDGE, iterations: int = 100) -> tuple[Tensor, Tensor]:
    """Logistic regression: P(y = 1) = sigmoid(x . weight + bias), both float64, in the units of x.

    Args:
        x_nd: [n, d].
        y_n: [n], 0 to 1.
        decay: of the weights, on x of unit variance.
        iterations: of L-BFGS.
    """
    x_nd, y_n = x_nd.double(), y_n.double()
    center, scale = x_nd.mean(0), x_nd.std(0).clamp(min=1e-9)
    z_nd = (x_nd - center) / scale
    with torch.inference_mode(False), torch.enable_grad():
        weight = torch.zeros(z_nd.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS([weight], max_iter=iterations, line_search_fn="strong_wolfe")
        z_nd, y_n = z_nd.clone(), y_n.clone()

        def loss() -> Tensor:
            search.zero_grad()
            value = F.binary_cross_entropy_with_logits(z_nd @ weight[1:] + weight[0], y_n) + decay * weight[1:].square().sum()
            value.backward()
            return value

        search.step(loss)  # type: ignore[arg-type]
    fitted = weight.detach()[1:] / scale
    return fitted, weight.detach()[0] - fitted @ center


def held_out(positive_nd: Tensor, negative_nd: Tensor, how: Fit, site: str = "") -> float | None:
    """Share of pairs that a direction fitted on the other folds puts in order; None where a fold leaves nothing to fit."""
    count, right = len(positive_nd), 0
    folds = min(FOLDS, count)
    for fold in range(folds):
        aside = torch.arange(count) % folds == fold
        try:
            vector = direction(positive_nd[~aside], negative_nd[~aside], how, site)
        except DataError:
            return None
        right += int(((positive_nd[aside] - negative_nd[aside]) @ vector > 0).sum())
    return right / count


def save(directions: Mapping[str, Direction], path: Path, record: Mapping[str, Any]) -> None:
    """Writes directions; `record` says where they come from.

    Raises:
        SteelyardError: the file cannot be written.
    """
    tensors = {f"{site}.direction": one.vector.contiguous() for site, one in directions.items()}
    tensors |= {f"{site}.spread": torch.tensor([one.spread]) for site, one in directions.items()}
    accuracy = {site: one.accuracy for site, one in directions.items()}
    with atomic(path, "wb") as file:
        file.write(safetensors.torch.save(tensors, {"steering": json.dumps({**record, "held_out_accuracy": accuracy})}))


def load(path: Path, trunk: Trunk) -> dict[str, Direction]:
    """Reads directions for a trunk.

    Raises:
        ModelFileError: not such a file, or made for another width.
        SteelyardError: a site that the trunk does not have.
    """
    with SafetensorsFile(path) as file:
        names = file.names()
        sites = sorted(name.removesuffix(".direction") for name in names if name.endswith(".direction"))
        expected = {
            f"{site}.{part}": (trunk.plan.width,) if part == "direction" else (1,) for site in sites for part in ("direction", "spread")
        }
        if not sites or set(names) != set(expected):
            raise ModelFileError("not a file of directions", where=str(path), do="Name a file that the lever `steering` wrote.")
        check_sites(sites, trunk)
        if wrong := next((name for name, shape in expected.items() if file.shape(name) != shape), None):
            what = f"`{wrong}` is {list(file.shape(wrong))}, not {list(expected[wrong])}"
            raise ModelFileError(what, where=str(path), do="Fit directions to this very model.")
        tensors = {name: file.read(name).float().clone() for name in names}
    if bad := next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None):
        raise ModelFileError(f"`{bad}` holds NaN or infinity", where=str(path), do="Fit them again.")
    return {site: Direction(tensors[f"{site}.direction"], float(tensors[f"{site}.spread"])) for site in sites}
