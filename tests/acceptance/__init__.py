"""One small honest experiment per lever: a hypothesis, a negative control, and at most five minutes on two cores.

make accept NAME=prompt_lookup       one experiment in full; its result goes to docs/results/prompt_lookup.json
make accept                          all of them, one after the other
pytest tests/acceptance              reduced forms of all of them, a few seconds each (that is what CI runs)
"""

NAMES = (
    "prompt_lookup",
    "speculative",
    "self_speculative",
    "early_exit",
    "quantize",
    "sft",
    "fim",
    "prompt",
    "retrieve",
    "circle",
    "places",
    "planted_defect",
    "error_rate",
    "coverage",
    "open_formats",
    "constraint",
    "typical",
    "watermark",
    "contrastive",
    "dola",
    "steering",
    "beam",
    "uncertainty",
    "abstain",
    "kv_cache",
    "offload",
    "numerics",
    "moe",
    "ternary",
    "reversible",
    "universal",
    "recurrent_depth",
    "multi_token",
    "performer",
    "sparse_attention",
    "linformer",
    "lstm",
    "encoder_decoder",
    "transformer_xl",
    "s4",
    "mamba",
    "monarch",
    "rwkv",
    "recurrent_gemma",
)
"""In the order `make accept` runs them. Each is a module of this folder with an `EXPERIMENT`."""
