"""Other ways of keeping what a model remembers than plain tensors in memory."""
