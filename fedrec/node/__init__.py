"""What a Flower node does for the devices that it hosts."""
