"""Sequential item-to-item statistics: counting transitions, and making scores of noisy counts."""
