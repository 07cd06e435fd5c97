"""Transfer: freezing and thawing layers, loading weights, cached features."""
