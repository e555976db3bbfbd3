"""What one person is recommended, and why: scores, top-k, fold-in of a new person, explanations."""
