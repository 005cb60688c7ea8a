"""Metrics as ``torchmetrics.Metric`` classes; importing a module of this package imports torch."""
