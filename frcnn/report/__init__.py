"""A report on a model: one HTML page, and its numbers as JSON."""
