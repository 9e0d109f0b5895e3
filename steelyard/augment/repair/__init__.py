"""Repair: faults of an answer that can be told without knowing the right one, and asking again with them named."""
