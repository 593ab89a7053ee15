"""Metric, folds, schema, parameters, atomic files: independent of file formats and learners.

Every package may import it; it imports none of them.
"""
