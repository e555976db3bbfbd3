"""What is on disk: run folders, checkpoints, catalogues, private arrays."""
