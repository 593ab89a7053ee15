"""Optuna: search space, study, storage and record."""
