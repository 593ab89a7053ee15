"""Metric, folds, schema, parameters, atomic files: independent of file formats and learners.

All packages import it; it imports none of them.
"""
