"""The in-process grid, studies and benchmarks: commands that run on one machine."""
