"""Steering: directions of meaning inside a model, fitted from pairs of texts and added while it reads and writes."""
