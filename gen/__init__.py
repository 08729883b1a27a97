"""Configuration, elaboration, network import, mapping, synthesis, reports and the command line."""
