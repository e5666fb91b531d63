"""The weight σ: what it can be, and the rules that compute its mass in every cell."""
