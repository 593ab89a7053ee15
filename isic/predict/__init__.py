"""Bundles and scoring, without MLflow: an offline notebook needs no other package of isic."""
