"""Data: rows of files and generators become conversations, token rows and batches; every iterator yields (batch, state)."""
