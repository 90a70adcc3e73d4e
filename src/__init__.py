"""Viseme: trains, samples and compares five published talking-head methods."""

__version__ = "0.1.0"
