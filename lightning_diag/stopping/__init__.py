"""When a training ends: early stopping, trials of a search, and the search itself."""
