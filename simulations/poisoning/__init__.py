"""Hostile devices that want one item recommended, and what that costs honest ones."""
