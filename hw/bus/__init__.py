"""AXI4 master ports and the AXI4-Lite register port."""
