"""Adder trees."""
