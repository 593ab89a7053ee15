"""Kaggle only: build the submission package, rehearse it offline, and push it."""
