"""Promote, roll back, look back: the acts of a person on the registry."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from isic.core.errors import InputError
from isic.core.io import write_json
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.predict.bundle import load_bundle
from isic.predict.manifest import FILE, read_manifest
from isic.registry.description import with_gate
from isic.registry.gate import Verdict, judge
from isic.registry.journal import PromotionRecord, apply, history, make_move, recover
from isic.registry.register import LOCK, make_challenger
from isic.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, Registry, Version
from isic.tracking import open_run
from isic.tracking.store import locked


@dataclass(frozen=True)
class Promotion:
    """What came of a promotion: the champion now, the verdict, and the move, None when nothing had to move."""

    champion: Version
    verdict: Verdict | None
    move: PromotionRecord | None


def promote(layout: Layout, force: bool = False, reason: str = "") -> Promotion:
    """Make the challenger the champion if the gate lets it; a forced promotion is recorded with its reason.

    A bundle in the checkout that is not the challenger is made so first. The verdict is written to metrics/gate.json
    whatever it is. Raises InputError when there is neither bundle nor challenger, the gate refuses, or `force` comes
    without a reason.
    """
    if force and not reason.strip():
        raise InputError('--force needs --reason "…": it is recorded in registry/promotions.jsonl')
    params = load_params(layout.params)
    model = params.register_.model
    registry = Registry(layout)
    with locked(layout.root, LOCK):
        _repair(registry)
        challenger, champion = _challenger(registry, model), registry.aliased(model, CHAMPION)
        if challenger is None:
            raise InputError(f"{model} has no challenger: run `dvc repro`, which registers one")
        if champion is not None and champion.number == challenger.number:
            return Promotion(champion, None, None)
        verdict = judge(layout, params.gate, registry, challenger, champion)
        _record(layout, registry, challenger, verdict)
        if not verdict.passed and not force:
            raise InputError(
                f'the gate refuses {challenger}: {verdict.summary()} (`--force --reason "…"` overrules it)'
            )
        move = make_move(
            layout,
            "promote",
            model,
            _number(champion),
            challenger.number,
            _number(registry.aliased(model, PREVIOUS)),
            reason=reason,
            forced=force and not verdict.passed,
            gate=verdict.to_json(),
        )
        apply(registry, move)
    return Promotion(challenger, verdict, move)


def rollback(layout: Layout, reason: str = "") -> PromotionRecord:
    """Make the previous champion the champion again, and the present one, if there is any, the previous.

    Raises InputError when there is no previous champion or its files are gone.
    """
    model = load_params(layout.params).register_.model
    registry = Registry(layout)
    with locked(layout.root, LOCK):
        _repair(registry)
        # A version deleted in MLflow's UI takes its alias along: a lost champion is a reason to go back.
        before, previous = _number(registry.aliased(model, CHAMPION)), registry.aliased(model, PREVIOUS)
        if previous is None:
            raise InputError(f"{model} has no previous champion to go back to: `isic history` shows what there was")
        registry.folder(previous)
        move = make_move(layout, "rollback", model, before, previous.number, previous.number, reason=reason)
        apply(registry, move)
    return move


def past(layout: Layout) -> list[PromotionRecord]:
    """Every promotion and rollback, oldest first, after finishing or undoing one that was cut off."""
    if layout.promotions.with_name(".pending.json").exists():
        registry = Registry(layout)
        with locked(layout.root, LOCK):
            _repair(registry)
    return history(layout)


def _challenger(registry: Registry, model: str) -> Version | None:
    """The challenger, which is the checkout's bundle if it has one.

    A version and its alias are no file that DVC knows: its cache brings models/bundle back without running the stage
    `register`, after going back to older parameters, in a new clone, or when mlflow.db was lost.
    """
    layout, found = registry.layout, registry.aliased(model, CHALLENGER)
    if not (layout.bundle / FILE).is_file():
        return found
    if found is not None and found.bundle_hash == read_manifest(layout.bundle).hash:
        return found
    card = layout.report.with_name("model_card.md")
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    made, reused = make_challenger(registry, load_bundle(layout.bundle), model, text)
    before = found or "there was none"
    how = "was registered before" if reused else "is registered now"
    sys.stderr.write(f"isic: note: models/bundle was not the challenger ({before}): it {how} and is, as {made}\n")
    return made


def _record(layout: Layout, registry: Registry, challenger: Version, verdict: Verdict) -> None:
    """The verdict as metrics/gate.json, as tags of the version, and as a run."""
    path = layout.register_metrics.with_name("gate.json")
    write_json(path, verdict.to_json())
    registry.tag(challenger, {"gate": "passed" if verdict.passed else "refused", "gate_reason": verdict.summary()})
    pair = {"challenger": challenger.number, "champion": verdict.champion}
    registry.write_note(challenger, with_gate(registry.note(challenger), verdict.markdown()))
    with open_run("gate", pair, f"gate-{challenger.number}", root=layout.root) as run:
        run.tags({"gate": "passed" if verdict.passed else "refused"})
        run.metrics({f"passed.{_word(check.name)}": float(check.passed) for check in verdict.checks})
        run.artifact(path)


def _word(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")


def _repair(registry: Registry) -> None:
    line = recover(registry)
    if line:
        sys.stderr.write(f"isic: note: {line}\n")


def _number(version: Version | None) -> int | None:
    return None if version is None else version.number
