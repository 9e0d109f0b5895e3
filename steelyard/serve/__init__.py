"""The server: an OpenAI-compatible API and a page over the engine, and the store of what people said."""
