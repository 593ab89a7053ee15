"""Promote, roll back, list promotions: the commands on the registry."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from isic.core.errors import InputError
from isic.core.io import sha256_json, write_json
from isic.core.params import Gate
from isic.core.paths import PromotionFiles
from isic.predict.bundle import load_bundle
from isic.predict.manifest import FILE, read_manifest
from isic.registry.description import with_gate
from isic.registry.gate import Verdict, judge
from isic.registry.journal import (
    PromotionRecord,
    apply_record,
    make_record,
    pending_file,
    read_promotions,
    recover,
)
from isic.registry.register import IMAGE_MODEL, LOCK, make_challenger, open_check
from isic.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, Registry, Version
from isic.tracking.context import git
from isic.tracking.runs import flatten
from isic.tracking.store import checkout_lock


@dataclass(frozen=True)
class Promotion:
    """Result of `promote`: the champion now, the gate's verdict, and the record, None when no alias
    moved.
    """

    champion: Version
    verdict: Verdict | None
    record: PromotionRecord | None


def promote(
    registry: Registry,
    model: str,
    files: PromotionFiles,
    settings: Gate,
    force: bool = False,
    reason: str = "",
) -> Promotion:
    """Make the challenger the champion if it passes the gate; a forced promotion is recorded with
    its reason.

    If the bundle in `files` is not the challenger, it becomes the challenger first. The verdict is
    always written. Raises InputError when there is neither bundle nor challenger, the
    gate refuses, or `force` has no reason.
    """
    if force and not reason.strip():
        raise InputError('--force needs --reason "…": it is recorded in registry/promotions.jsonl')

    with checkout_lock(registry.root, LOCK):
        _recover(registry, files.promotions)
        challenger = _challenger(registry, model, files.bundle, files.card)
        champion = registry.find_alias(model, CHAMPION)
        if challenger is None:
            raise InputError(f"{model} has no challenger: run `dvc repro`, which registers one")
        if champion is not None and champion.number == challenger.number:
            # For a promotion that ended before this, its last step.
            _align_networks(registry, champion)
            return Promotion(champion, None, None)

        verdict = judge(settings, registry, challenger, champion, files.training)
        _write_verdict(registry, challenger, verdict, files.verdict)
        if not verdict.passed and not force:
            raise InputError(
                f'the gate refuses {challenger}: {verdict.summary()} (`--force --reason "…"`'
                " overrules it)"
            )

        record = make_record(
            "promote",
            model,
            _git_user(registry.root),
            _number(champion),
            challenger.number,
            _number(registry.find_alias(model, PREVIOUS)),
            reason=reason,
            forced=force and not verdict.passed,
            gate=verdict.to_json(),
        )
        apply_record(registry, files.promotions, record)
        _align_networks(registry, challenger)
    return Promotion(challenger, verdict, record)


def rollback(registry: Registry, model: str, promotions: Path, reason: str = "") -> PromotionRecord:
    """Swap the aliases `champion` and `previous`; there may be no present champion.

    Raises InputError when there is no previous champion or its files are gone.
    """
    with checkout_lock(registry.root, LOCK):
        _recover(registry, promotions)
        # Deleting a version in MLflow's UI also deletes its alias, so the champion may be None.
        before, previous = (
            _number(registry.find_alias(model, CHAMPION)),
            registry.find_alias(model, PREVIOUS),
        )
        if previous is None:
            raise InputError(
                f"{model} has no previous champion to go back to: `isic history` lists past"
                " champions"
            )
        registry.folder(previous)
        user, number = _git_user(registry.root), previous.number
        record = make_record("rollback", model, user, before, number, number, reason=reason)
        apply_record(registry, promotions, record)
        _align_networks(registry, previous)
    return record


def list_moves(root: Path, promotions: Path) -> list[PromotionRecord]:
    """Every promotion and rollback, oldest first, after finishing or undoing an interrupted one."""
    if pending_file(promotions).exists():
        registry = Registry(root)
        with checkout_lock(root, LOCK):
            _recover(registry, promotions)
    return read_promotions(promotions)


def _challenger(registry: Registry, model: str, bundle: Path, card: Path) -> Version | None:
    """The challenger: the bundle in folder `bundle` if there is one, else the version with that
    alias.

    DVC does not track versions and aliases. Its cache may restore models/bundle without running the
    stage `register`: after a return to older parameters, in a new clone, or after mlflow.db was
    lost.
    """
    challenger = registry.find_alias(model, CHALLENGER)
    if not (bundle / FILE).is_file():
        return challenger
    if challenger is not None and challenger.bundle_hash == read_manifest(bundle).hash:
        return challenger

    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    version, reused = make_challenger(registry, load_bundle(bundle), model, text)
    before = challenger or "there was none"
    state = "was registered before" if reused else "is registered now"
    sys.stderr.write(
        f"isic: note: models/bundle was not the challenger ({before}): it {state} and is, as"
        f" {version}\n"
    )
    return version


def _write_verdict(registry: Registry, challenger: Version, verdict: Verdict, path: Path) -> None:
    """Write the verdict to `path`, to the version's tags and description, and log it as a run."""
    write_json(path, verdict.to_json())
    outcome = "passed" if verdict.passed else "refused"
    registry.tag(challenger, {"gate": outcome, "gate_reason": verdict.summary()})
    registry.set_description(
        challenger, with_gate(registry.description(challenger), verdict.markdown())
    )
    from mlflow.entities import Metric, RunTag
    from mlflow.utils.time import get_current_time_millis

    config = {"challenger": challenger.number, "champion": verdict.champion}
    against = "no champion" if verdict.champion is None else f"{verdict.champion}"
    name = f"gate {challenger.number} against {against}"
    passed = {f"passed.{_metric_name(check.name)}": check.passed for check in verdict.checks}
    now, client = get_current_time_millis(), registry.client
    with open_check(registry, "gate", sha256_json(config), name, flatten(config)) as run:
        metrics = [Metric(key, float(value), now, 0) for key, value in passed.items()]
        client.log_batch(run, metrics=metrics, tags=[RunTag("gate", outcome)])
        client.log_artifact(run, str(path))


def _align_networks(registry: Registry, champion: Version) -> None:
    """Move the alias `champion` of the image models to the networks in this version."""
    for name, number in registry.tags(champion).items():
        if not name.startswith(IMAGE_MODEL):
            continue
        # A move to the same version would call the webhook.
        if _number(registry.find_alias(name, CHAMPION)) != int(number):
            registry.set_alias(name, CHAMPION, int(number))


def _metric_name(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")


def _recover(registry: Registry, promotions: Path) -> None:
    message = recover(registry, promotions)
    if message:
        sys.stderr.write(f"isic: note: {message}\n")


def _git_user(root: Path) -> str:
    return git(root, "config", "user.email") or git(root, "config", "user.name") or "unknown"


def _number(version: Version | None) -> int | None:
    return None if version is None else version.number
