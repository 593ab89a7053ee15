"""Bundles and scoring: all that an offline notebook needs, without MLflow."""
