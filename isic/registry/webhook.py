"""A webhook of the MLflow server that is sent when an alias moves, so at every promotion.

A local store sends none: it has no process that outlives a command.
"""

from __future__ import annotations

from isic.core.errors import InputError, redact
from isic.registry.versions import Registry, translate_mlflow_errors
from isic.tracking.store import sqlite_file

_NAME, _EVENT = "isic-promotion", "model_version_alias.created"


def add_webhook(registry: Registry, url: str, secret: str = "") -> str:
    """Have the checkout's MLflow server POST to `url` when an alias moves; returns the webhook's id.

    The body names model, version and alias: `champion` means a promotion. `secret` signs it. A
    webhook with this address is kept. Raises InputError for a local store or an address that the
    server refuses.
    """
    from mlflow.exceptions import MlflowException

    client = registry.client
    if sqlite_file(client.tracking_uri) is not None:
        raise InputError(
            "webhooks are sent by an MLflow server, and this checkout has a local store: set"
            " MLFLOW_TRACKING_URI"
        )
    try:
        with translate_mlflow_errors(client.tracking_uri):
            known = [hook for hook in client.list_webhooks() if hook.url == url]
            hook = (
                known[0]
                if known
                else client.create_webhook(_NAME, url, [_EVENT], None, secret or None)
            )
    except MlflowException as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the server refuses the webhook {redact(url)}: {reason}") from error
    return str(hook.webhook_id)
