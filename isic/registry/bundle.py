"""Old path of `isic.predict.bundle`, imported by models that isic 0.1.0 registered in MLflow."""

from isic.predict.bundle import Bundle, load_bundle

__all__ = ["Bundle", "load_bundle"]
