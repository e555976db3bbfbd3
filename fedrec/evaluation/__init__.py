"""Ranking metrics, intervals and pooled baselines."""
