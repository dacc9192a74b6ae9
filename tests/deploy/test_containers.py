"""Images, compose file and chart, as far as they can be tested without containers (docs/how-to/deploying.md)."""

import json
import re
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import typer
import yaml
from packaging.requirements import Requirement

from ynet.config import parse
from ynet_client.commands.cli import app as client_app
from ynet_client.settings import ClientSettings
from ynet_server.commands.cli import app as server_app
from ynet_server.settings import ServerSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/ynet-server"
COMPOSE = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
MOST_MB = 400
"""Limit of the server's packages beside the base image of 150 MB; the aim is 600 MB in all."""


def taken(words: list[str]) -> None:
    """Parse a command line of ynet. Raises the error that a user would see."""
    command: Any = typer.main.get_command(server_app if words[0] == "ynet-server" else client_app)
    name, rest = "", words[1:]
    while isinstance(command, click.Group):
        name, rest = rest[0], rest[1:]
        command = command.commands[name]
    command.make_context(name, rest)


# --- images


def distributions(name: str, extra: str = "") -> Iterator[str]:
    """Return all distributions that are installed with one."""
    seen, waiting = set[tuple[str, str]](), [(name, extra)]
    while waiting:
        one, asked = waiting.pop()
        if (one, asked) in seen:
            continue
        seen.add((one, asked))
        yield one
        for line in metadata.requires(one) or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": asked}):
                waiting += [(need.name, inner) for inner in ("", *need.extras)]


def size_mb(name: str) -> float:
    files = metadata.files(name) or []
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file()) / 1e6


def test_server_install_is_small_and_without_torch() -> None:
    names = {name.lower() for name in distributions("ynet")}
    assert "flwr" in names
    assert not names & {"torch", "scipy", "ray", "pillow", "opacus", "dp-accounting"}
    assert sum(map(size_mb, names)) < MOST_MB


def instructions(name: str) -> list[tuple[str, str]]:
    text = (DEPLOY / "containers" / name).read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in joined.splitlines()]


@pytest.mark.parametrize("name", ["server.Containerfile", "client.Containerfile"])
def test_container_is_built_from_lock_and_runs_as_any_user(name: str) -> None:
    steps = instructions(name)
    stages = [number for number, (word, _) in enumerate(steps) if word == "FROM"]
    assert len(stages) == 2
    build, final = steps[: stages[1]], steps[stages[1] :]
    installs = [text for word, text in build if word == "RUN" and "pip" in text]
    assert "--constraint requirements.lock" in installs[-1]
    assert not [text for word, text in final if word == "RUN" and "pip" in text]
    assert ("USER", "10001:10001") in final
    words = dict(final)
    health = json.loads(words["HEALTHCHECK"].partition("CMD ")[2])
    taken(health)
    taken([*json.loads(words["ENTRYPOINT"]), *json.loads(words.get("CMD", '["status"]'))])
    copied = {source for word, text in build if word == "COPY" for source in text.split()[:-1]}
    allowed = {line[1:] for line in (DEPLOY.parent / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied <= allowed
    assert all((DEPLOY.parent / one).exists() for one in allowed)


# --- compose


def test_compose_confines_services_and_publishes_only_server_ports() -> None:
    for service in COMPOSE["services"].values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert published == {"server": ["127.0.0.1:8440:8440", "127.0.0.1:8441:8441"]}


def test_the_trials_parts_fit_together() -> None:
    services, used = COMPOSE["services"], set[str]()
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        used |= {volume.split(":")[0] for volume in service["volumes"]}
        if "build" in service:
            assert (DEPLOY / "compose" / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        if "healthcheck" in service:
            taken(service["healthcheck"]["test"][1:])
    assert used == set(COMPOSE["volumes"])
    taken(["ynet-server", *services["server"]["command"]])
    for file, kind in (("server", ServerSettings), ("client", ClientSettings)):
        path = DEPLOY / "compose" / COMPOSE["configs"][file]["file"]
        parse(kind, yaml.safe_load(path.read_text()), str(path))
    assert {service["environment"]["SITE"] for name, service in services.items() if name[:5] == "site-"} == {*"ABC"}


# --- chart


def values(**changed: Any) -> dict[str, Any]:
    return {**yaml.safe_load((CHART / "values.yaml").read_text()), "advertise": "ynet.example.org", **changed}


def rendered(name: str, given: dict[str, Any]) -> Any:
    """Render a template with all conditions true and lists of one item, without Helm."""

    def value(found: re.Match[str]) -> str:
        if found[1] in (".Release.Name", ".Release.Namespace"):
            return "consortium"
        if not found[1].startswith(".Values."):
            return "a"  # of a list
        inner: Any = given
        for key in found[1].split(".")[2:]:
            inner = inner[key]
        return str(inner)

    text = re.sub(r"^\{\{-? (?:if|range|end).*\}\}\n", "", (CHART / "templates" / name).read_text(), flags=re.M)
    return yaml.safe_load(re.sub(r"\{\{ (\S+) \}\}", value, text))


def test_chart_values_fit_schema_and_host_name_is_required() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values(), schema)
    for wrong in ({"advertise": ""}, {"replicas": 2}, {"maxModelMb": 5000}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(values(**wrong), schema)


def test_the_charts_settings_are_a_servers() -> None:
    config = rendered("configmap.yaml", values())["data"]["server.yaml"]
    settings = parse(ServerSettings, yaml.safe_load(config), "the chart")
    assert settings == parse(ServerSettings, {"advertise": "ynet.example.org"}, "by hand")


def test_chart_server_is_one_confined_process_with_own_volume() -> None:
    made = rendered("statefulset.yaml", values())
    assert (made["kind"], made["spec"]["replicas"]) == ("StatefulSet", 1)
    pod = made["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    (container,) = pod["containers"]
    confined = container["securityContext"]
    assert confined["readOnlyRootFilesystem"]
    assert confined["capabilities"]["drop"] == ["ALL"]
    assert not confined["allowPrivilegeEscalation"]
    taken(["ynet-server", *container["args"]])
    for probe in ("startupProbe", "livenessProbe"):
        taken(container[probe]["exec"]["command"])
    volumes = {one["name"] for one in pod["volumes"]} | {made["spec"]["volumeClaimTemplates"][0]["metadata"]["name"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"hub": 8440, "enrolment": 8441}
    service = rendered("service.yaml", values())
    assert {one["targetPort"] for one in service["spec"]["ports"]} == set(ports)
    assert service["spec"]["selector"] == made["spec"]["template"]["metadata"]["labels"]
    policy = rendered("networkpolicy.yaml", values())["spec"]
    assert policy["egress"] == []
    assert policy["podSelector"]["matchLabels"] == service["spec"]["selector"]
    assert {one["port"] for one in policy["ingress"][0]["ports"]} == set(ports)


def test_the_notes_commands_are_ynets() -> None:
    (line,) = re.findall(r"-- (ynet-server .*)$", (CHART / "templates/NOTES.txt").read_text(), re.M)
    taken(shlex.split(line))
