"""Shards and scores in S3-compatible object storage that refuses every tenth request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from isic.core.errors import InputError
from isic.scale.make_shards import make_shards
from isic.scale.predict import predict_shards
from isic.scale.shards import read_shard, read_shard_manifest
from isic.scale.store import Store
from tests.scale.servers import free_port

pytestmark = pytest.mark.slow


class Stumbling:
    """WSGI middleware that responds with 503 to every tenth request for an object."""

    def __init__(self, inner: Callable[..., Iterable[bytes]]) -> None:
        self._inner, self.asked, self.refused, self._lock = inner, 0, 0, threading.Lock()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        with self._lock:
            self.asked += 1
            refuse = self.asked % 10 == 0
            self.refused += refuse
        if not refuse:
            return self._inner(environ, start_response)
        # The request must be read, else the client gets a broken connection instead of the
        # response.
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("503 Slow Down", [("Content-Type", "application/xml")])
        return [
            b"<Error><Code>SlowDown</Code><Message>Please reduce your request"
            b" rate.</Message></Error>"
        ]


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stumbling, str]]:
    """The server, and the query of its address for pyarrow."""
    moto = pytest.importorskip("moto.server")
    from werkzeug.serving import make_server

    app = Stumbling(moto.DomainDispatcherApplication(moto.create_backend_app))
    port = free_port()
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    query = f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    yield app, query
    server.shutdown()
    thread.join()


def test_prediction_in_object_storage(
    two_nodes: Any, bundle: Path, plain: pd.Series, sample_raw: Path, storage: tuple[Stumbling, str]
) -> None:
    app, query = storage
    source, target = Store(f"s3://lesions/shards{query}"), Store(f"s3://lesions/scores{query}")
    make_shards(sample_raw / "train-metadata.csv", sample_raw / "train-image.hdf5", source, rows=60)
    predict_shards(str(bundle), source, target)
    assert app.refused > 5
    names = [shard.name for shard in read_shard_manifest(source).shards]
    tables = [
        target.read_with(name, lambda file: pq.read_table(file).to_pandas()) for name in names
    ]
    scores = pd.concat(tables).set_index("isic_id")["target"]
    assert scores.index.is_unique
    assert np.abs(scores.reindex(plain.index) - plain).max() <= 1e-6
    again = predict_shards(str(bundle), source, target)
    assert (again.rows, again.scored) == (len(plain), 0)


def test_a_shard_that_is_not_there_is_one_line(
    sample_raw: Path, storage: tuple[Stumbling, str]
) -> None:
    store = Store(f"s3://lesions/few{storage[1]}")
    make_shards(sample_raw / "train-metadata.csv", None, store, rows=300)
    shard = read_shard_manifest(store).shards[0]
    store._fs.delete_file(store._path(shard.name))
    with pytest.raises(InputError, match=r"^s3://lesions/few/part-00000.parquet not found"):
        read_shard(store, shard)
