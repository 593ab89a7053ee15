"""Check that the checkout's DVC remote on S3 is writable."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlparse

from isic.core.errors import InputError, redact


def probe_remote(root: Path) -> str | None:
    """Write an object to the default DVC remote and delete it; None without a default remote.

    Remotes other than S3 are reported but not tried. Raises InputError when the remote is not
    writable.
    """
    files = [root / ".dvc" / name for name in ("config", "config.local")]
    if not any("remote" in file.read_text(encoding="utf-8") for file in files if file.is_file()):
        return None  # running DVC takes seconds
    settings = _settings(root)
    name = settings.get("core.remote")
    if name is None:
        return None
    url = settings.get(f"remote.{name}.url", "")
    if not url.startswith("s3://"):
        return f"{name} at {redact(url)} (not tried)"
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise InputError(
            f"{name} is {url}, which needs more packages: pip install 'isic[server]'"
        ) from None
    own = {key: settings.get(f"remote.{name}.{option}") for key, option in _OPTIONS.items()}
    location = urlparse(url)
    key = f"{location.path.strip('/')}/doctor-{uuid.uuid4().hex}".lstrip("/")
    try:
        session = boto3.Session(profile_name=settings.get(f"remote.{name}.profile"))
        client = session.client("s3", **{key: value for key, value in own.items() if value})
        client.put_object(Bucket=location.netloc, Key=key, Body=b"")
        client.delete_object(Bucket=location.netloc, Key=key)
    except (BotoCoreError, ClientError) as error:
        raise InputError(
            f"{name} at {url} cannot be written to ({redact(str(error))[:160]}): check its"
            " endpointurl and credentials"
        ) from error
    return f"{name} at {url} is writable"


_OPTIONS = {
    "endpoint_url": "endpointurl",
    "region_name": "region",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
}


def _settings(root: Path) -> dict[str, str]:
    """DVC's merged configuration, by dotted names."""
    command = [sys.executable, "-m", "dvc", "config", "--list"]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
