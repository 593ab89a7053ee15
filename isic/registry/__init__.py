"""MLflow's model registry: versions, the gate and the journal of promotions. Scoring is in
`isic.predict`.
"""
