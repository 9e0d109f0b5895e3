"""Ready tasks over published sets of data, one file for each set."""
