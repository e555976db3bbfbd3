"""Recommenders: one file each."""
