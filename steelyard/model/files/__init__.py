"""Weights on disk: safetensors and GGUF, read without trusting a byte of them."""
