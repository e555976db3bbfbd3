"""Mechanisms, noise, accounting and the ledger."""
