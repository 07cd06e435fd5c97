"""Initial weights: what follows each layer, what fits it, and what the signal makes of it."""
