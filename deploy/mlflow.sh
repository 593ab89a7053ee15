#!/bin/sh
# Starts a team's MLflow server, in a container or for `make server`. Secrets come from the environment, never from arguments:
#   MLFLOW_BACKEND_STORE_URI, AUTH_DATABASE_URI    databases for runs and for users
#   MLFLOW_ARTIFACTS_DESTINATION                   s3://BUCKET/PREFIX, reached with AWS_* and MLFLOW_S3_ENDPOINT_URL
#   MLFLOW_AUTH_ADMIN_USERNAME, MLFLOW_AUTH_ADMIN_PASSWORD, MLFLOW_FLASK_SERVER_SECRET_KEY
#   MLFLOW_HOST, MLFLOW_PORT, MLFLOW_WORKERS, MLFLOW_SERVER_ALLOWED_HOSTS
set -eu
umask 077
: "${MLFLOW_AUTH_CONFIG_PATH:=/tmp/mlflow-auth.ini}"
export MLFLOW_AUTH_CONFIG_PATH
# In the ini format a percent sign is escaped by doubling it.
database=$(printf '%s' "$AUTH_DATABASE_URI" | sed 's/%/%%/g')
# EDIT: all members log to one experiment and register versions of one model.
# Password hashes are slow by design, so a successful check is cached for a minute per user.
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<END
[mlflow]
default_permission = EDIT
database_uri = $database
admin_username = $MLFLOW_AUTH_ADMIN_USERNAME
auth_cache_ttl_seconds = 60
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END
exec "${PYTHON:-python}" -m mlflow server --app-name basic-auth --serve-artifacts
