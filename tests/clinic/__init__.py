"""Sick and healthy runs, drawn at random, and how often `Doctor` is right about them."""
