"""Uncertainty: how sure an answer is, measured in several ways, calibrated on labelled questions, and acted upon."""
