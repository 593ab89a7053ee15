"""Pictures with diagnoses from elsewhere (dermoscopy, clinical photographs): read, shrink, and keep
those of a scored patient out of training.
"""
