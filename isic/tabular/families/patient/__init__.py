"""Families that compare a lesion with the same patient's others."""
