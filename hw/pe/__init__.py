"""Dot-product units, one file per architecture."""
