"""Formal proofs of components of `hw/`: queues, buses, tokens, and the window of the whole engine."""
