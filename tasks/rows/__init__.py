"""Data of one's own without code: rows of tables, by the names of their columns."""
