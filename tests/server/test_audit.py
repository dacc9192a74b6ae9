"""The server's audit log, by its commands."""

import json
from pathlib import Path

from smallest_plan import smallest_plan

from ynet_lab.trial import Trial
from ynet_server import audit


def test_entry_line_keeps_the_key_act_on_disk_and_reads_back() -> None:
    entry = audit.ServerEntry(1, 2.0, "invited", "A", "", "0" * 64)
    line = b'{"about":"","act":"invited","number":1,"previous":"%s","site":"A","time":2.0}\n' % (b"0" * 64)
    assert entry.line() == line
    assert audit.KIND.parse(line) == entry


def test_what_the_coordinator_does_stands_in_the_log_and_a_changed_log_is_found_out(tmp_path: Path) -> None:
    plan = tmp_path / "p.yaml"
    values = json.loads(smallest_plan().canonical())
    values["network"]["code"] = "trained"  # which the canonical form leaves out
    plan.write_text(json.dumps(values), "utf-8")
    with Trial(tmp_path / "trial", {}) as trial:
        trial.start_server()
        trial.server_command("invite", "A")
        trial.server_command("plan", "freeze", plan)
        run = json.loads(trial.server_command("train", "--plan", plan, "--detach", "--json").stdout)["run"]
        trial.wait_for_event(run, "waiting", 1)
        trial.server_command("cancel", run)
        trial.wait_for_event(run, "cancelled", 1)
        shown = json.loads(trial.server_command("audit", "show", "--json").stdout)["entries"]
        acts = ["invited", "plan-frozen", "run-started", "run-cancelled"]
        assert [entry["action"] for entry in shown] == acts
        assert shown[0]["site"] == "A"
        assert smallest_plan().id in shown[1]["about"]
        assert "run-cancelled" in trial.server_command("audit", "show").stdout
        whole = json.loads(trial.server_command("audit", "verify", "--json").stdout)
        assert (whole["entries"], whole["signed"]) == (4, 0)
        log = trial.server_home / audit.LOG
        log.write_bytes(log.read_bytes().replace(b'"site":"A"', b'"site":"B"'))
        refused = trial.server_command("audit", "verify")
        assert refused.returncode == 3
        assert refused.stderr.splitlines()[0] == "error: the audit log cannot be trusted"
