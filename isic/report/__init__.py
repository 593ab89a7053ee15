"""What a run's results say: metrics with intervals, points to plot, one page to read, paired comparisons.

Reads what the learners left on disk and never trains for the headline. Knows nothing of MLflow: a tracker is handed in.
"""
