"""Features of lesions: their own measurements, and differences from the same patient's other
lesions.

Works on frames alone (numpy, pandas, numba), so that training, the bundle and an offline notebook
compute the same numbers. Feature families lie in `isic/tabular/families`; `build_features` runs the
chosen ones.
"""

from isic.tabular.build import build_features
from isic.tabular.registry import Family, Feature, feature_families

__all__ = ["Family", "Feature", "build_features", "feature_families"]
