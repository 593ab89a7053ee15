"""Image networks: from tiles to one logit and one embedding per lesion.

The only home of torch, timm and albumentations; runs without mlflow and dvc. Every random choice is
a function of (seed, epoch, position) or (seed, step), so a run has no hidden random state to lose:
it resumes, mid-epoch and with another number of loader processes, to the same weights.
"""
