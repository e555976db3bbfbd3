"""The vectorized engine: trains all devices of a cohort at once, on stacked arrays."""
