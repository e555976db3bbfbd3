"""From a run to what people and tools read."""
