"""Families fitted on training rows. `isic.tabular.fitted` loads the `FAMILY` of each file."""
