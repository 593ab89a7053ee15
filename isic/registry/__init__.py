"""Models as things with a name: the bundle folder, its versions in MLflow, the gate between them.

`bundle` and `scoring` need neither mlflow nor dvc: a bundle scores lesions wherever this package and its learners are.
"""
