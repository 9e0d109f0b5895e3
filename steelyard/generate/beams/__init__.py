"""Beam search: the answer whose whole probability is high, found by several sequences that fork."""
