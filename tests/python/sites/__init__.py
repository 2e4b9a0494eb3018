"""Applications of real frameworks, each with the same paths."""
