"""`make server`: run the servers on this machine until Ctrl-C and print the variables to export."""

import argparse
import signal
import sys
import time
from pathlib import Path

from deploy.local.servers import BUCKET, Servers
from isic.core.errors import InputError, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m deploy.local")
    parser.add_argument(
        "--folder", type=Path, default=Path(".server"), help="data, logs and secrets"
    )
    parser.add_argument(
        "--port", type=int, default=5050, help="port of MLflow; PostgreSQL and S3 use the next two"
    )
    arguments = parser.parse_args()
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # SIGTERM, from a service manager, is handled like Ctrl-C
    servers = Servers(arguments.folder.resolve(), arguments.port)
    print_line("starting PostgreSQL, S3 and MLflow …")
    servers.start()
    try:
        print_line(usage(servers, servers.write_environment()))
        while not (name := servers.exited()):
            time.sleep(1)
        raise InputError(f"{name} has exited: see the logs in {servers.folder}")
    except KeyboardInterrupt:
        print_line("stopping …")
    finally:
        # A second Ctrl-C must not interrupt the shutdown.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        servers.stop()
    print_line("stopped; data and logs are kept in " + str(servers.folder))


def usage(servers: Servers, environment: Path) -> str:
    """The next commands; secrets stay in the file."""
    return f"""
MLflow      {servers.address} (user and password: MLFLOW_TRACKING_* in {environment})
PostgreSQL  127.0.0.1:{servers.postgres.port}, database optuna for make tune
S3          {servers.s3}, bucket {BUCKET}

In another shell, use them:
  . {environment}
  isic doctor
  isic tracking copy --from sqlite:///mlflow.db --to "$MLFLOW_TRACKING_URI"
  dvc remote add --local -f -d team s3://{BUCKET}/dvc && dvc remote modify --local team endpointurl {servers.s3}
  dvc push --run-cache

Ctrl-C here stops them; data and logs stay in {servers.folder}.
"""


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run(main)
