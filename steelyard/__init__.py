"""Steelyard: find out what a change to your language model really did."""

__version__ = "0.1.0"
