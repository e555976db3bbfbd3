"""What only a device does."""
