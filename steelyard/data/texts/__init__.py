"""Plain texts to learn from, whatever they lie in."""
