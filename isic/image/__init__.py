"""Image networks: from tiles to one logit and one embedding per lesion.

Only this package imports torch, timm and albumentations; it needs neither mlflow nor dvc. Every
random choice is a function of (seed, epoch, position) or (seed, step). So a run resumes within an
epoch, also with another number of loader processes, and ends with the same weights.
"""
