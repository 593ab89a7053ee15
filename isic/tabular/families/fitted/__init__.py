"""Families fitted on training rows; each file holds one `FAMILY`, loaded by `isic.tabular.fitted`."""
