"""Bitwright: a generator of variable-precision neural-network accelerators."""

from importlib.metadata import version

__version__ = version("bitwright")
