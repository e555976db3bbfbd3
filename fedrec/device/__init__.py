"""One real device: its data, its consent, its Flower client and its local recommender."""
