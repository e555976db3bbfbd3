"""What Flower loads on the server: the ServerApp."""
