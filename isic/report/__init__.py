"""The report page of a run, its model and data cards, and explanations of single scores."""
