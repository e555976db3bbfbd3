"""Part of fedrec: see the module names."""
