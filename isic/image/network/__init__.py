"""Tile to logit and embedding."""
