"""Every adapter to Flower, and all that touches its private parts."""
