"""Interactions, catalogues, splits and their sources."""
