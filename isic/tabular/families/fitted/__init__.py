"""Kinds of features learnt from training rows; each file holds one `KIND`, found by `isic.tabular.fitted`."""
