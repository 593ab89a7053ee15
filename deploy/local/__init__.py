"""PostgreSQL, an S3-compatible store and an MLflow server with basic auth, on the loopback of this
machine.
"""
