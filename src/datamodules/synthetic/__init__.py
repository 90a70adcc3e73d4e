"""Synthetic heads: rendered people who speak, with exact landmarks; the data set that needs no download."""
