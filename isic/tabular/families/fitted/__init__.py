"""Families fitted on training rows; each file holds one `FAMILY`, found by `isic.tabular.fitted`."""
