"""Hard examples: losses and samplers that attend to them."""
