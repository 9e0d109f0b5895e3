"""The model card: README.md of a made model, written from its record, claiming nothing that was not measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from steelyard.model.linears.lora import branches
from steelyard.model.model import Model

OURS = "steelyard"
"""The family of models that no public class knows."""


def model_card(model: Model, name: str, record: Mapping[str, Any]) -> str:
    """Markdown with the metadata block the Hub reads.

    Args:
        model: as it will be saved.
        name: its title.
        record: `steelyard.json`'s content.
    """
    parent = record["parents"][0] if record["parents"] else None
    adapter = bool(branches(model.trunk))
    base = parent["name"].removeprefix("hf:") if parent and parent["name"].startswith("hf:") else None
    made_from = (
        f"from `{parent['name']}` (fingerprint `{parent['fingerprint']}`)" if parent else "from nothing: its weights were drawn anew"
    )
    ours = model.family.name == OURS
    head = [
        "---",
        f"library_name: {'peft' if adapter else OURS if ours else 'transformers'}",
        *([f"base_model: {base}"] if base else []),
        "tags: [steelyard]",
        "---",
    ]
    body = [
        f"# {name}",
        f"Made with [Steelyard](https://pypi.org/project/steelyard/) {record['versions'].get('steelyard', '')} {made_from}. "
        "Everything that went into it is in `steelyard.json`.",
        "## Steps",
        *(
            f"* `{step}`: `{json.dumps(_told(settings), ensure_ascii=False)}`"
            for entry in record["steps"]
            for step, settings in entry.items()
        ),
        *_training(record["training"]),
        "## Use",
        _use(adapter, parent["name"] if parent else "", ours),
        "## Limits",
        "The losses above are all that was measured while it was made; they say nothing about truthfulness, safety or any task. "
        + (
            f"Weigh it: `steelyard weigh --base {parent['name']} --data mine.jsonl ...`. The licence of the base and of the data apply."
            if parent
            else f"{_nature(model)} The licence of the data applies."
        ),
    ]
    return "\n".join(head) + "\n\n" + "\n\n".join(body) + "\n"


def _nature(model: Model) -> str:
    """What a model made from nothing has learned to do."""
    if model.config.get("is_encoder_decoder"):
        return "It reads one message and writes what its examples taught it; it knows nothing else."
    return "It goes on with text and has learned to answer nobody."


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _training(entries: list[Mapping[str, Any]]) -> list[str]:
    if not entries:
        return []
    rows = [
        "| step | data | rows | steps | tokens | loss at the end | validation before | after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for entry in entries:
        data, result = entry["data"], entry["result"]
        cells = [
            entry["lever"],
            f"{data['source']} (`{data['fingerprint']}`)",
            data["rows"],
            result["step"],
            result["tokens"],
            *(_number(result[key]) for key in ("loss", "validation_before", "validation_loss")),
        ]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return ["## Training", "\n".join(rows)]


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _use(adapter: bool, base: str, ours: bool = False) -> str:
    if ours:
        return "```\nsteelyard chat .\n```\n\nNo public class knows its architecture: Steelyard alone opens it."
    if adapter:
        return (
            "An adapter; its base is not in here.\n\n```\nsteelyard chat .\n```\n\nor\n\n```python\nfrom peft import PeftModel\n"
            f"model = PeftModel.from_pretrained(base, '.')  # base: {base}, opened with transformers\n```"
        )
    return "```\nsteelyard chat .\n```\n\nor `transformers.AutoModelForCausalLM.from_pretrained('.')`."
