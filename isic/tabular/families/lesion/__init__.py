"""Families computed from one row alone."""
