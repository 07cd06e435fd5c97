"""Gradient clipping: a threshold from the run's own norms, and clipping that finds its own."""
