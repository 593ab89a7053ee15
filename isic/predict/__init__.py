"""Bundles and what scores with them: all that an offline notebook needs, without MLflow."""
