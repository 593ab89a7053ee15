"""Refits, drift, perturbation, the nested estimate and the search for leaks."""
