"""The mass flow behind a momentum: particles, their paths, and what these cost."""
