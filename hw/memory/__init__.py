"""Scratchpads, FIFOs and the units that move data between them and memory."""
