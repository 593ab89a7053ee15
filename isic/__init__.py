"""Find skin cancer among hundreds of lesions per patient: an experiment-tracked pipeline for ISIC
2024 (SLICE-3D).
"""

__version__ = "0.2.0"
