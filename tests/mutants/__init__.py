"""Planted faults: each patch breaks one promise, and names the tests that must notice."""
