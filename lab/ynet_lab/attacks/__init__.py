"""Attacks on models, updates and codes. Their results are lower bounds of what leaks."""
