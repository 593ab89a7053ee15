"""Launchers and estimates: folds on local GPUs, folds and prediction on a Ray cluster, shards of
whole patients.

The optional extra `isic[ray]` is needed for the cluster only: ray is imported inside functions of
this package, so that shards can be written and read without it. Nothing here decides a score.
"""
