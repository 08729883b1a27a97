"""Instruction set, registers, fetch, tokens, counters and the compute sequencer."""
