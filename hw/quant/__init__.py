"""Bias, requantisation and clamping."""
