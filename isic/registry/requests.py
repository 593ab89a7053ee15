"""Old path of `isic.predict.requests`, imported by models that isic 0.1.0 registered in MLflow."""

from isic.predict.requests import score_request

__all__ = ["score_request"]
