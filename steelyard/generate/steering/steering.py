"""Steering: add a direction of meaning to what the model computes, while it reads and while it writes.

    x_site <- x_site + strength spread theta        at every token, for every chosen site

theta is fitted from pairs of texts (see `directions.py`), spread is the standard deviation of activations along it, so that a
strength of 5 is five standard deviations at any site of any model. Nothing is trained.
Sources: K. Li, O. Patel, F. Viegas et al., Inference-Time Intervention, arXiv:2306.03341 (mixer outputs, the direction between class
means, units of its spread; they choose attention heads, here whole sites are named); A. Turner et al., arXiv:2308.10248 (the residual
stream). The more strength, the more effect and the worse the text: perplexity pays, and is to be weighed beside it.
Cost: one addition of a vector a site and token; but C++ steps know no site programs, so every step takes the trunk's own way, which
is the slower one. Fitting reads every text of the pairs once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from steelyard.core.errors import ModelFileError
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.generate.spec import EngineSpec
from steelyard.generate.steering.directions import Direction, Fit, Tokens, check_sites, fit, load, read_pairs, save
from steelyard.model.sites import Add, SiteProgram


class Steering(Lever):
    """Adds directions, fitted from pairs, at named sites."""

    name: ClassVar[str] = "steering"
    idea: ClassVar[str] = (
        "What tells two kinds of text apart is often a direction in a model's activations. Fit it from pairs of texts, and add some of it "
        "at every token: the text turns that way, without training."
    )
    equation: ClassVar[str] = "x <- x + strength spread theta;  theta = (mean(positive) - mean(negative)) / |...|"
    paper: ClassVar[str] = "arXiv:2306.03341, arXiv:2308.10248"
    cost: ClassVar[str] = (
        "One vector added a site and token; fitting reads every pair once. C++ steps know no site programs: the trunk goes its own, slower "
        "way. Perplexity rises with strength."
    )
    main: ClassVar[str] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    identity: ClassVar[dict] = {"strength": 0.0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = False

    pairs: Path | None = Field(None, description='JSONL file of {"positive": text, "negative": text} that directions are fitted from')
    directions: Path | None = Field(None, description="safetensors file of directions fitted before, instead of pairs")
    strength: float = Field(
        2.0, ge=-1000, le=1000, allow_inf_nan=False, description="how far to go, in standard deviations along the direction; 0 = off"
    )
    sites: tuple[str, ...] = Field(
        (), description="where to add: blocks.N.input, .mixer, .channel, final_norm; unset: the middle block's input"
    )
    fit: Fit = Field("means", description="means: from the mean of one kind to that of the other; probe: a logistic regression's weights")
    tokens: Tokens = Field("mean", description="what stands for a text: the mean over its tokens, or its last token")

    @model_validator(mode="after")
    def _one_source(self) -> Steering:
        if (self.pairs is None) == (self.directions is None) and self.strength:
            raise ValueError("give either `pairs` or `directions`")
        if len(set(self.sites)) < len(self.sites):
            raise ValueError("a site is named twice")
        return self

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Puts the additions into the engine's site program.

        Raises:
            SteelyardError: pairs or directions that cannot be used, or sites that the model does not have.
        """
        if not self.strength:
            return spec
        found = self._found(spec)
        return replace(spec, program=steered(spec.program or SiteProgram(), found, self.strength))

    def _found(self, spec: EngineSpec) -> Mapping[str, Direction]:
        """The directions: read, or fitted and kept in the run's folder."""
        model = spec.model
        if self.directions is not None:
            read = load(self.directions.expanduser(), model.trunk)
            if missing := [site for site in self.sites if site not in read]:
                check_sites(missing, model.trunk)
                missing_site = f"the file holds no direction for {missing[0]}"
                raise ModelFileError(missing_site, where=str(self.directions), do=f"It has {', '.join(read)}.")
            return {site: read[site] for site in self.sites or read}
        sites = self.sites or (f"blocks.{len(model.trunk.plan.depth.blocks) // 2}.input",)
        check_sites(sites, model.trunk)
        assert self.pairs is not None
        pairs, content = read_pairs(self.pairs.expanduser())
        key = digest([model.fingerprint, content.hex(), sorted(sites), self.fit, self.tokens])
        path = spec.folder and spec.folder / f"steering-{key[:16]}.safetensors"
        if path is not None and path.exists():
            return load(path, model.trunk)
        fitted = fit(model, pairs, sites, self.fit, self.tokens)
        if path is not None:
            save(fitted, path, {"model": model.name, "fit": self.fit, "tokens": self.tokens, "pairs": len(pairs)})
        return fitted


def steered(program: SiteProgram, directions: Mapping[str, Direction], strength: float) -> SiteProgram:
    """The program with the directions added to what it adds already."""
    added = dict(program.add)
    for site, one in directions.items():
        vectors = strength * one.spread * one.vector[None]
        earlier = added.get(site)
        added[site] = Add(vectors if earlier is None else earlier.vectors + vectors, None if earlier is None else earlier.index)
    return replace(program, add=added)
