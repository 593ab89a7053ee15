"""Kinds of features learnt from training rows; each file holds one `FAMILY`, found by `isic.tabular.fitted`."""
