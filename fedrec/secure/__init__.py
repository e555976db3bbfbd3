"""Secure aggregation: a server learns the sum over a cohort, and of one device nothing."""
