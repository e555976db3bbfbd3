"""What Flower loads on a node: the ClientApp."""
