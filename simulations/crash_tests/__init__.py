"""Processes killed at named and random points, and what must hold afterwards."""
