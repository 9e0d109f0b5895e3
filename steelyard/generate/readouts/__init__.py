"""Readouts: what the model itself says, changed before any processor, in answers and in scores alike."""
