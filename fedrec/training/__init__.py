"""Local training: how one device learns, and what it learns against."""
