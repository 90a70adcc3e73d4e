"""Losses, optimisers, averaging and logging: one module per trained stage."""
