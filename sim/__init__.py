"""Golden model, cycle model and RTL simulation."""
