"""Metrics of talking-head videos, torchmetrics style."""
