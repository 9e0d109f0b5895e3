"""Generated material: fresh for every seed, so nothing can have memorised it."""
