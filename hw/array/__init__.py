"""How dot-product units are joined: dataflows."""
