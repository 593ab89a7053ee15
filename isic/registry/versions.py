"""Versions of registered models in MLflow, their aliases and their files.

The aliases are `champion`, `challenger` and `previous`; MLflow's stages are deprecated and unused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from isic.core.errors import InputError, redact
from isic.core.paths import Layout
from isic.predict.manifest import FILE, read_manifest
from isic.tracking.files import listing, repository
from isic.tracking.store import artifact_root, connect, home, unusable_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
#: Tag that identifies the bundle of a version, so that no bundle is registered twice.
HASH_TAG = "bundle_hash"
#: Tag of a champion: short hashes of the bundles that were judged against it, in order.
JUDGED_TAG, _MAX_JUDGED = "judged", 500
#: Folder of the bundle among the files of a version that scores lesions.
BUNDLE = "artifacts/bundle"
_HASH = re.compile(r"[0-9a-f]{64}")
_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: int
    bundle_hash: str

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


class Registry:
    """The registered models of a checkout's MLflow store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.client: MlflowClient = connect(root, patience=300)

    def find_alias(self, name: str, alias: str) -> Version | None:
        """The version with `alias`, or None. Raises InputError when the store cannot be reached."""
        with translate_mlflow_errors(self.client.tracking_uri):
            number = self._aliases(name).get(alias)
            return None if number is None else self.version(name, number)

    def version(self, name: str, number: int) -> Version:
        """A version by number. Raises InputError when there is none."""
        from mlflow.exceptions import MlflowException

        try:
            with translate_mlflow_errors(self.client.tracking_uri):
                return _version(self.client.get_model_version(name, str(number)))
        except MlflowException as error:
            known = ", ".join(str(version.number) for version in self.versions(name)) or "none"
            raise InputError(f"there is no version {number} of {name}: there is {known}") from error

    def versions(self, name: str) -> list[Version]:
        """All versions, oldest first; none when the model is not registered yet."""
        with translate_mlflow_errors(self.client.tracking_uri):
            versions = self.client.search_model_versions(f"name = '{name}'")
        return sorted(map(_version, versions), key=lambda version: version.number)

    def set_alias(self, name: str, alias: str, number: int | None) -> None:
        """Move `alias` to version `number`; None deletes the alias."""
        with translate_mlflow_errors(self.client.tracking_uri):
            if number is not None:
                self.client.set_registered_model_alias(name, alias, str(number))
            elif alias in self._aliases(name):
                self.client.delete_registered_model_alias(name, alias)

    def tag(self, version: Version, tags: dict[str, str]) -> None:
        """Write tags on a version."""
        with translate_mlflow_errors(self.client.tracking_uri):
            for key, value in tags.items():
                self.client.set_model_version_tag(version.name, str(version.number), key, value)

    def count_challenger(self, champion: Version, challenger: Version) -> int:
        """Position of `challenger` among the bundles judged against `champion`, from 1; recorded in
        a tag of the champion, so that judging a bundle again does not count twice.

        Call with the registry's lock held.
        """
        with translate_mlflow_errors(self.client.tracking_uri):
            tags = self.client.get_model_version(champion.name, str(champion.number)).tags
        judged = tags.get(JUDGED_TAG, "").split()
        short = challenger.bundle_hash[:8]
        if short not in judged:
            judged.append(short)
            # A tag holds 5,000 characters; at that length the remaining chance is 1 in 10 million.
            self.tag(champion, {JUDGED_TAG: " ".join(judged[:_MAX_JUDGED])})
        return judged.index(short) + 1

    def tags(self, version: Version) -> dict[str, str]:
        """The tags of a version."""
        with translate_mlflow_errors(self.client.tracking_uri):
            return dict(self.client.get_model_version(version.name, str(version.number)).tags)

    def source_run(self, version: Version) -> str:
        """Id of the run that made a version."""
        with translate_mlflow_errors(self.client.tracking_uri):
            found = self.client.get_model_version(version.name, str(version.number))
            return str(found.run_id or "")

    def description(self, version: Version) -> str:
        """The description (Markdown) of a version, "" when there is none."""
        with translate_mlflow_errors(self.client.tracking_uri):
            return (
                self.client.get_model_version(version.name, str(version.number)).description or ""
            )

    def set_description(self, version: Version, text: str) -> None:
        """Replace the description (Markdown) of a version."""
        with translate_mlflow_errors(self.client.tracking_uri):
            self.client.update_model_version(version.name, str(version.number), text)

    def folder(self, version: Version) -> Path:
        """The bundle folder of a version; downloaded into a cache when the store is remote.

        Raises InputError when the version's files are gone, or a downloaded bundle has another hash
        than its tag.
        """
        files = self._files(version, BUNDLE)
        uri = urlparse(files.artifact_uri)
        if uri.scheme not in ("", "file"):
            return self._download(version, files)

        folder = Path(unquote(uri.path))
        if not folder.is_dir():
            raise _gone(version, str(folder))
        return folder

    def has_files(self, version: Version, names: Iterable[str], inside: str = "") -> bool:
        """Whether all files `names` still exist below folder `inside` of the version's files."""
        with translate_mlflow_errors(self.client.tracking_uri):
            return set(names) <= listing(self._files(version, inside)).keys()

    def _files(self, version: Version, inside: str) -> ArtifactRepository:
        with translate_mlflow_errors(self.client.tracking_uri):
            # Not by a models:/ URI: MLflow would resolve it in the registry that this process used
            # last.
            uri = self.client.get_model_version_download_uri(version.name, str(version.number))
            location = f"{uri}/{inside}" if inside else uri
            return repository(location, self.client.tracking_uri, artifact_root(self.root))

    def _download(self, version: Version, files: ArtifactRepository) -> Path:
        # Anyone can edit tags, and this one is used as the name of a folder.
        if not _HASH.fullmatch(version.bundle_hash):
            raise InputError(
                f"{version} has the tag {HASH_TAG} {version.bundle_hash!r}, which is no hash:"
                " register its bundle again"
            )
        cache = home(self.root) / ".resume" / "models" / version.bundle_hash
        if not _is_bundle_of(cache, version):
            from isic.core.io import atomic_dir

            with translate_mlflow_errors(self.client.tracking_uri), atomic_dir(cache) as temporary:
                files.download_artifacts("", dst_path=str(temporary))
                if not (
                    temporary / FILE
                ).is_file():  # for deleted files a server sends nothing, and no error
                    raise _gone(version, redact(files.artifact_uri))
                if read_manifest(temporary).hash != version.bundle_hash:
                    raise InputError(
                        f"{version} has other files at {redact(files.artifact_uri)} than its tag"
                        f" {HASH_TAG}: register its bundle again"
                    )
        return cache

    def _aliases(self, name: str) -> dict[str, int]:
        from mlflow.exceptions import MlflowException

        try:
            return {
                alias: int(number)
                for alias, number in self.client.get_registered_model(name).aliases.items()
            }
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise


def resolve_model(model: str, root: Path | None = None) -> Path:
    """The bundle folder of `model`: `models:/NAME@ALIAS`, `models:/NAME/VERSION` (of the checkout
    `root`), or a folder.

    A folder needs neither mlflow nor a checkout. Raises InputError when there is no such version or
    folder.
    """
    if not model.startswith("models:"):
        return Path(model)
    parts = _MODEL_URI.fullmatch(model)
    if parts is None:
        raise InputError(
            f"{model} is no model: write models:/NAME@champion, models:/NAME/3, or a bundle folder"
        )
    registry = Registry(root or Layout.find().root)
    name, alias = parts["name"], parts["alias"]
    if alias is None:
        return registry.folder(registry.version(name, int(parts["version"])))
    version = registry.find_alias(name, alias)
    if version is None:
        hint = {CHAMPION: "run `make promote`", CHALLENGER: "run `dvc repro`"}.get(
            alias, "see `isic history`"
        )
        raise InputError(f"no version of {name} is {alias} yet: {hint}")
    return registry.folder(version)


#: MLflow's codes for what a store does not hold or does not accept.
_ABOUT_CONTENT = (
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_ALREADY_EXISTS",
)


@contextmanager
def translate_mlflow_errors(uri: str) -> Iterator[None]:
    """Raise InputError when the store cannot be used; errors about its content pass through."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        if error.error_code in _ABOUT_CONTENT and "MLFLOW_" not in str(error):
            raise
        raise unusable_store(uri, error) from error
    except SQLAlchemyError as error:
        raise unusable_store(uri, error) from error
    except ValueError as error:
        if "MLFLOW_" not in str(error):
            raise
        raise unusable_store(uri, error) from error


def _is_bundle_of(folder: Path, version: Version) -> bool:
    """Whether `folder` holds the bundle with the hash of the version's tag."""
    try:
        return read_manifest(folder).hash == version.bundle_hash
    except InputError:  # no bundle, or a changed one
        return False


def _gone(version: Version, location: str) -> InputError:
    return InputError(
        f"{version} is registered, but its files are gone from {location}: restore them, or move"
        " its alias with `isic rollback` or `isic promote --force`"
    )


def _version(version: ModelVersion) -> Version:
    return Version(version.name, int(version.version), version.tags.get(HASH_TAG, ""))
