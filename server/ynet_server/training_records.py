"""What was trained: plans, runs and models, in the registry's file."""

import json
import sqlite3
from typing import Any, Literal, NamedTuple

from ynet import plan as plans
from ynet.errors import UserError
from ynet.plan import Plan
from ynet_server.registry_file import RegistryFile

RunStatus = Literal["running", "finished", "failed", "cancelled"]


class Run(NamedTuple):
    """One training of one plan."""

    id: int
    plan: str
    status: RunStatus
    started: float  # seconds since 1970
    ended: float | None
    reason: str
    model: str | None


class PublishedModel(NamedTuple):
    """A published model; the newest is the one in use."""

    id: str
    run: int
    card: dict[str, Any]
    published: float


class TrainingRecords:
    """Plans, runs and models. Safe to use from several threads."""

    def __init__(self, file: RegistryFile) -> None:
        self._file = file
        self._plans: dict[str, Plan | None] = {}

    def freeze(self, frozen: Plan, now: float) -> str:
        """Store a plan under its id; a changed plan is a new plan."""
        with self._file.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO plans VALUES (?, ?, ?, ?)", (frozen.id, frozen.name, frozen.canonical(), now)
            )
        return frozen.id

    def plan(self, plan_id: str) -> Plan:
        """A frozen plan. Raises UserError."""
        found = self._file.rows("SELECT canonical FROM plans WHERE id=?", plan_id)
        if not found:
            raise UserError(f"there is no plan {plan_id[:12]}", "it was never frozen here", "freeze it first")
        kept = plans.from_canonical(found[0][0])
        if kept.id != plan_id:
            why = "an older ynet with other defaults named it"
            do = "train the plan's file again: it gets a new id"
            raise UserError(f"plan {plan_id[:12]} is another one now", why, do)
        return kept

    def known_plan(self, plan_id: str) -> Plan | None:
        """A frozen plan for display, read once; None when this ynet cannot read it."""
        if plan_id not in self._plans:
            try:
                self._plans[plan_id] = self.plan(plan_id)
            except UserError:
                self._plans[plan_id] = None
        return self._plans[plan_id]

    def start_run(self, plan_id: str, now: float) -> int:
        """Start a run of a frozen plan. Returns its number. Raises UserError while another run is under way."""
        with self._file.transaction() as db:
            _check_no_other_runs(db)
            cursor = db.execute("INSERT INTO runs (plan, status, started) VALUES (?, 'running', ?)", (plan_id, now))
            return int(cursor.lastrowid or 0)

    def end_run(self, run: int, status: RunStatus, reason: str, model: str | None, now: float) -> None:
        """Close a run."""
        with self._file.transaction() as db:
            db.execute(
                "UPDATE runs SET status=?, reason=?, model=?, ended=? WHERE id=?", (status, reason, model, now, run)
            )

    def reopen_run(self, number: int) -> Run:
        """Set a failed or cancelled run to running again. Raises UserError."""
        with self._file.transaction() as db:
            found = db.execute("SELECT * FROM runs WHERE id=?", (number,)).fetchone()
            if found is None or Run(*found).status not in ("failed", "cancelled"):
                why = "there is no such run" if found is None else f"it is {Run(*found).status}"
                raise UserError(f"run {number} was not resumed", why, "see them: ynet-server runs")
            _check_no_other_runs(db)
            db.execute("UPDATE runs SET status='running', reason='', ended=NULL WHERE id=?", (number,))
            return Run(*found)

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        return [Run(*row) for row in self._file.rows("SELECT * FROM runs ORDER BY id DESC")]

    def publish(self, model: PublishedModel) -> None:
        """Put a model into use."""
        with self._file.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)",
                (model.id, model.run, json.dumps(model.card), model.published),
            )

    def models(self) -> list[PublishedModel]:
        """All published models, in the order of publishing, the newest first; the first is in use."""
        found = self._file.rows("SELECT id, run, card, published FROM models ORDER BY rowid DESC")
        return [PublishedModel(row[0], row[1], json.loads(row[2]), row[3]) for row in found]


def _check_no_other_runs(db: sqlite3.Connection) -> None:
    if running := db.execute("SELECT id FROM runs WHERE status='running'").fetchone():
        do = f"wait for it (ynet-server runs --watch), or end it: ynet-server cancel {running[0]}"
        raise UserError("no run was started", f"run {running[0]} is under way", do)
