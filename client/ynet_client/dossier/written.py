"""A dossier as JSON for tools and as Markdown for people."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ynet.runtime import setting_sources
from ynet.trust import lasting_key
from ynet_client.dossier import flows, kept
from ynet_client.dossier.facts import HomeFacts, day
from ynet_client.dossier.flows import DataFlow
from ynet_client.dossier.open_points import open_points
from ynet_client.dossier.questions import BLANK, QUESTIONS

LIMITING = ("policy", "disclosure", "privacy", "metrics", "workbench")
"""The sections of the settings that a dossier quotes. Paths and files of secrets are not quoted."""
UNQUOTED = ("workbench.certificate", "workbench.key")
NEVER = (
    "ynet puts no image, mask, patient's id or file path into a message to the server or to another site."
    " The notes of consults are what a person types."
)


def to_json(facts: HomeFacts) -> dict[str, Any]:
    """Return a dossier as `ynet-client dossier --json` prints it."""
    return {
        "made": facts.now,
        "version": facts.version,
        "home": str(facts.home),
        "site": facts.site,
        "fingerprint": facts.fingerprint,
        "since": facts.since,
        "running": facts.is_running,
        "trains": facts.settings.trains,
        "server": {key: list(one) if isinstance(one, tuple) else one for key, one in vars(facts.server).items()},
        "leaves": [one.to_json(facts) for one in flows.flows(facts)],
        "never_leaves": NEVER,
        "not_counted": not_counted(facts),
        "asked": {site: one.to_json() for site, one in facts.used.asked.items()},
        "answered": {site: one.to_json() for site, one in facts.used.answered.items()},
        "sites": [one._asdict() for one in facts.peers],
        "plans": [one.to_json() for one in facts.plans],
        "model": _model(facts),
        "ledger": facts.ledger,
        "audit": {
            "entries": facts.audit.head.number,
            "head": facts.audit.head.digest,
            "oldest": facts.used.first_number,
            "signed": facts.audit.signed,
            "signed_number": facts.audit.signed_number,
            "signed_at": facts.audit.signed_at,
        },
        "restored": None if facts.restored is None or math.isinf(facts.restored) else facts.restored,
        "kept": [one.to_json(facts.home) for one in kept.present(facts.home)],
        "accounts": facts.accounts,
        "settings": _settings(facts),
        "open_points": [one._asdict() for one in open_points(facts)],
        "questions": {topic: list(asked) for topic, asked in QUESTIONS.items()},
    }


def to_markdown(facts: HomeFacts) -> str:
    """Return a dossier as a Markdown page."""
    parts = (
        [f"# Dossier of site {facts.site}", _about(facts)],
        ["## What leaves this hospital", NEVER, *_summary(facts)],
        ["## Limits of each flow", *(part for one in flows.flows(facts) for part in _flow(one, facts))],
        ["## Open points", _open_points(facts)],
        ["## Who is trusted", *_trusted(facts)],
        ["## Plans and the model in use", *_plans(facts)],
        ["## Privacy ledger", _ledger(facts)],
        ["## Audit log", _audit(facts)],
        ["## What is kept on this machine", *_kept(facts)],
        ["## Settings that limit", *_quoted(facts)],
        ["## What only the hospital can answer", *_questions()],
    )
    return "\n\n".join(part for section in parts for part in section) + "\n"


def _about(facts: HomeFacts) -> str:
    role = "trains, asks and answers" if facts.settings.trains else "only asks and answers; it trains nothing"
    lines = (
        f"Made on {day(facts.now)} by ynet {facts.version} from the settings and files in `{facts.home}`.",
        f"The site {role}. It takes part since {day(facts.since)}. Its first round of training: {day(_first(facts))}.",
        f"The client {'was running' if facts.is_running else 'was not running'} when this was written.",
        f"Settings are read from {_code(facts.settings_file)}."
        if facts.settings_file
        else "Every setting is a default.",
        "A draft of a data protection impact assessment: the last section is for the hospital to fill in.",
    )
    return "\n".join(lines)


def _first(facts: HomeFacts) -> float | None:
    return min((one.first for one in facts.used.plans.values()), default=None)


def _summary(facts: HomeFacts) -> list[str]:
    rows = []
    for one in flows.flows(facts):
        total = one.totals(facts)
        since = day(total.first) if total else "-"
        plural = "s" if total and total.messages != 1 else ""
        sent = f"{total.messages} message{plural}, {total.bytes:,} bytes" if total else "nothing"
        rows.append((one.name, "yes" if one.leaves else "no", one.receivers, sent, since))
    head = ("what", "may leave today", "to", "has left so far", "since")
    counted = f"Bytes are counted before TLS. All of this leaves over outbound connections to {facts.server.address}"
    enrolled = f" and, to enrol, {facts.server.enrolment}" if facts.server.enrolment else ""
    return [_table(head, rows), f"{counted}{enrolled}.", not_counted(facts)]


def not_counted(facts: HomeFacts) -> str:
    """Return what the counts leave out: pages and metrics that this machine serves, and what people carry out."""
    settings = facts.settings
    page = f"{settings.workbench.host}:{settings.workbench.port}" if settings.workbench.enabled else "off"
    metrics = f"{settings.metrics.host}:{settings.metrics.port}" if settings.metrics.port else "off"
    return (
        f"Not counted: the workbench ({page}) and the metrics ({metrics}), which this machine serves; and what people"
        " do with commands: backups, reports and pictures, imports from the PACS, masks sent to the PACS."
    )


def _flow(one: DataFlow, facts: HomeFacts) -> list[str]:
    total = one.totals(facts)
    last = f" It left last on {day(total.last)}." if total else " None has left yet, as far as this site has counted."
    return [f"### {_cell(one.name)}", f"{_cell(one.contents)}.{last}", "\n".join(f"- {_cell(x)}" for x in one.limits)]


def _open_points(facts: HomeFacts) -> str:
    rows = open_points(facts)
    return _table(("point", "why it matters", "what closes it"), rows) if rows else "None."


def _trusted(facts: HomeFacts) -> list[str]:
    own = lasting_key.spoken(facts.fingerprint) or "none yet"
    authorities = ", ".join(_code(one) for one in facts.server.authorities)
    server = (
        f"Server: {_code(facts.server.address)}. Authority (SHA-256): {authorities}. This site's certificate is valid"
        f" until {day(facts.server.certificate_ends)}. This site's own fingerprint: {_code(own)}."
    )
    rows = [
        (
            one.site,
            one.state,
            lasting_key.spoken(one.trusted or one.fingerprint),
            day(one.since),
            "yes" if one.site in facts.asked_sites else "no",
            "yes" if one.site in facts.answered_sites else "no",
        )
        for one in facts.peers
    ]
    head = ("site", "state", "fingerprint", "seen since", "asked", "answered")
    exchanged = [
        (site, direction, one.queries, one.codes, one.hits, one.consults, one.without_answer, day(one.last))
        for direction, by_site in (("this site asked it", facts.used.asked), ("it asked", facts.used.answered))
        for site, one in sorted(by_site.items())
    ]
    titles = ("site", "", "queries", "codes", "hits", "consults", "without an answer", "last")
    return [
        server,
        _table(head, rows) if rows else "No other site was seen or confirmed.",
        *([_table(titles, exchanged)] if exchanged else ["No question was asked or answered."]),
    ]


def _plans(facts: HomeFacts) -> list[str]:
    rows = []
    for one in facts.plans:
        private = "unknown"
        if one.plan:
            bound = one.plan.privacy
            private = "none" if bound.mode == "off" else f"epsilon {bound.epsilon:g} at delta {bound.delta:g}"
        trained = f"{one.trained.rounds}, {day(one.trained.first)} to {day(one.trained.last)}" if one.trained else "0"
        name = one.plan.name if one.plan else "unknown"
        summed = one.plan.aggregation if one.plan else "unknown"
        rows.append((name, one.id[:16], one.decision or "none", one.effect, private, summed, trained))
    head = ("plan", "id", "decision", "effect today", "differential privacy", "aggregation", "rounds trained here")
    return [_table(head, rows) if rows else "No plan has come.", _model_line(facts)]


def _model(facts: HomeFacts) -> dict[str, Any] | None:
    if not facts.used.model:
        return None
    plan = facts.model_plan
    found = {"id": facts.used.model, "since": facts.used.model_since}
    return {**found, "plan": plan.id if plan else None, "gallery": facts.has_gallery}


def _model_line(facts: HomeFacts) -> str:
    if not facts.used.model:
        return "No model is in use: this site answers nothing yet."
    plan = facts.model_plan
    of = f", of plan {_cell(plan.plan.name)}" if plan and plan.plan else ""
    lost = "" if facts.has_gallery else " The gallery is missing: nothing is answered before it is built again."
    return f"Model in use: `{facts.used.model}`{of}, since {day(facts.used.model_since)}.{lost}"


def _ledger(facts: HomeFacts) -> str:
    ledger = facts.ledger
    at = f" at delta {ledger['delta']:g}" if ledger["delta"] else ""
    rows = [
        (run["plan"][:16], f"{run['round']} of {run['rounds']}", f"{run['epsilon']:g}", day(run["last"]))
        for run in ledger["runs"]
    ]
    line = (
        f"Data set {_code(ledger['data'])}: epsilon {ledger['spent']:g} spent{at}, {ledger['reserved']:g} reserved,"
        f" {ledger['left']:g} left of {ledger['max_epsilon']:g}. Entries: {ledger['entries']}; head"
        f" {_code(ledger['head'] or 'none')}."
    )
    unprotected = "Plans without differential privacy are in no ledger."
    table = [_table(("plan", "rounds", "epsilon", "last"), rows)] if rows else []
    return "\n\n".join([f"{line} {unprotected}", *table])


def _audit(facts: HomeFacts) -> str:
    audit = facts.audit
    signed = (
        f"The server has signed {audit.signed} heads that are in this log, the newest at entry {audit.signed_number}"
        f" on {day(audit.signed_at)}."
        if audit.signed_at is not None
        else "The server has signed no head of it yet."
    )
    return (
        f"The chain was checked, entry by entry, from {facts.used.first_number} to {audit.head.number}."
        f" Head: `{audit.head.digest}`. {signed}"
    )


def _kept(facts: HomeFacts) -> list[str]:
    rows = [
        (
            _code(one.pattern),
            one.contents,
            one.kept_for,
            "yes" if one.is_personal else "no",
            f"{kept.size_bytes(facts.home, one):,}",
        )
        for one in kept.present(facts.home)
    ]
    images = (
        "Images and masks stay in the folder of the manifest (`data` in client.yaml)."
        if facts.settings.archive
        else "This site has no archive of images."
    )
    accounts = (
        f"The workbench is {'served' if facts.settings.workbench.enabled else 'off'}; accounts: {facts.accounts}."
    )
    head = ("in the home folder", "content", "kept for", "about people", "bytes")
    return [images, _table(head, rows), accounts]


def _settings(facts: HomeFacts) -> list[dict[str, Any]]:
    sections = {name: getattr(facts.settings, name) for name in LIMITING}
    values = [("trains", facts.settings.trains), ("max_score_drop", facts.settings.max_score_drop)]
    for name, section in sections.items():
        values += setting_sources.values(section, f"{name}.")
    return [{"key": key, "value": value} for key, value in values if key not in UNQUOTED]


def _quoted(facts: HomeFacts) -> list[str]:
    rows = [(_code(one["key"]), _said(one["value"])) for one in _settings(facts)]
    return [_table(("setting", "value"), rows)]


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "(none)"
    return str(value) or "(empty)"


def _questions() -> Iterator[str]:
    for topic, asked in QUESTIONS.items():
        yield f"### {topic}"
        yield "\n".join(f"- {question} {BLANK}" for question in asked)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(map(str, head)) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_cell(str(cell)) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Return a text on one line that breaks no table; names come from the coordinator and from other sites."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _code(text: str) -> str:
    return "`" + text.replace("`", "'") + "`"
