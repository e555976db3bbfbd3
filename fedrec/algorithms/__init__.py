"""What devices contribute and what the server makes of the sum: one file per algorithm."""
