"""Probability measures: exact or error-controlled cell masses, samples, bounds."""
