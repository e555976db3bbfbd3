"""Private federated recommenders: interactions stay on their device, only an `Update` leaves it."""

__version__ = "0.1.0"
