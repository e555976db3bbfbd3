"""Sources of interactions: one file each."""
