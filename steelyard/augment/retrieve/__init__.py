"""Finding passages in documents: `opening.open_index` opens an index by name, `retrieve.Retrieve` gives its passages to a model."""
