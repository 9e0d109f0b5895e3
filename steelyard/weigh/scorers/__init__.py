"""Pieces that scorers share: how text, numbers, refusals to answer, JSON and confidence are read."""
