"""Training: one loop (`trainer`), objectives that give it a loss, adapters, and `make`, which runs a recipe's steps."""
