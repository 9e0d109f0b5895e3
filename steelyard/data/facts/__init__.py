"""Checkable facts from packages and the encyclopedia, and made-up ones that nobody can know."""
