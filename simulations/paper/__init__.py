"""Rows of published tables, measured again."""
