"""Privacy mechanisms: who adds the noise, against whom it protects, and what a round costs."""
