-- In addition to `mlflow`, which the image creates: users of MLflow, and studies of `make tune`.
create database mlflow_auth;
create database optuna;
