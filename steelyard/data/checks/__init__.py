"""Checks of texts that came from anywhere: is it JSON, does it match a schema, does a pattern stand in it."""
