"""Calls of tools: how a model is told of them, and how what it writes is read."""
