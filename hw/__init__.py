"""Everything that becomes gates, and the number formats."""
