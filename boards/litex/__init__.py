"""What LiteX needs to have an engine in a SoC; see :mod:`.bitwright_litex`."""
