"""What only the server does."""
