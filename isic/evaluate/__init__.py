"""Metrics, curves, slices and comparisons of scores, and the data of the figures."""
