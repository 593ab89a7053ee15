"""A promotion reaches a listener on the loopback, sent by a real MLflow server."""

from __future__ import annotations

import http.server
import json
import os
import queue
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from isic.core.errors import InputError
from isic.registry.versions import Registry
from isic.registry.webhook import add_webhook
from tests.scale.servers import free_port


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    environment = os.environ | {
        # A team's server keeps MLflow's defaults: https to public addresses.
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    }
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def calls() -> Iterator[tuple[str, queue.Queue[dict]]]:
    """Address of a listener, and the bodies it got."""
    got: queue.Queue[dict] = queue.Queue()

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_address[1]}/promoted", got
    listener.shutdown()


@pytest.mark.slow
def test_a_promotion_calls_the_listener(
    server: str, calls: tuple[str, queue.Queue[dict]], tmp_path: Path
) -> None:
    url, got = calls
    registry = Registry(tmp_path)
    assert add_webhook(registry, url) == add_webhook(registry, url), "one webhook per address"
    registry.client.create_registered_model("isic-2024")
    run = registry.client.create_run("0")
    source = f"{run.info.artifact_uri}/model"
    registry.client.create_model_version("isic-2024", source, run.info.run_id)
    registry.set_alias("isic-2024", "champion", 1)
    body = got.get(timeout=60)
    assert body["entity"] == "model_version_alias"
    assert body["data"] == {"name": "isic-2024", "alias": "champion", "version": "1"}
    with pytest.raises(InputError, match="the server refuses the webhook ftp://x"):
        add_webhook(registry, "ftp://x/y")


def test_a_local_store_has_no_webhooks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this checkout has a local store"):
        add_webhook(Registry(tmp_path), "https://example.org")
