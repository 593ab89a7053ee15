-- Beside `mlflow`, which the image makes: users of MLflow, and studies of `make tune`.
create database mlflow_auth;
create database optuna;
