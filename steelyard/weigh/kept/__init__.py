"""Runs that are kept: read again, merged, and compared with those of another day."""
