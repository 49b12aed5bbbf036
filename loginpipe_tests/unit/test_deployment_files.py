"""The deployment files match the code, each other, and their promises."""

import json
import os
import pkgutil
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef
from dagster._core.run_coordinator import QueuedRunCoordinator

from loginpipe.common.settings import PREFIX, Settings
from loginpipe.definitions import build_definitions
from loginpipe.defs.ingest.job import GRACE_SECONDS, INGEST_JOB, QUEUE_TAG
from loginpipe.defs.metadata import DOWNSTREAM_TAG

ROOT = Path(__file__).parents[2]
COMPOSE_FOLDER = ROOT / "deploy" / "compose"
SETTINGS = {PREFIX + name.upper(): field.default for name, field in Settings.model_fields.items()}


def load(path: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return content


COMPOSE = load("docker-compose.yml")
PRODUCTION = load("deploy/compose/production.yml")
STACK = load("deploy/compose/stack.yml")


def extended(service: dict[str, Any]) -> dict[str, Any]:
    """Return a service of production.yml merged with the one that it extends, as Compose does; its own keys win.

    Of lists, only the volumes are merged, which is enough here. ``deploy`` is left out, because only Swarm uses it.
    """
    other = STACK["services"][service["extends"]["service"]]
    volumes = [*other["volumes"], *service.get("volumes", [])]
    whole = {**other, **service, "volumes": volumes}
    return {key: value for key, value in whole.items() if key not in {"extends", "deploy"}}


IN_PRODUCTION: dict[str, dict[str, Any]] = {name: extended(service) for name, service in PRODUCTION["services"].items()}
RUNS: dict[str, dict[str, Any]] = load("deploy/compose/runs-in-containers.yml")["services"]
RUNS_DAGSTER = load("deploy/compose/runs-in-containers/dagster.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Return the mounts of a service: source → ``ro`` or ``rw``."""
    parts = [mount.split(":") for mount in service.get("volumes", [])]
    return {source: mode[0] if mode else "rw" for source, _, *mode in parts}


def services_with(volume: str) -> set[str]:
    return {name for name, service in SERVICES.items() if volume in mounts(service)}


@pytest.fixture(scope="module")
def dagster_config() -> dict[str, Any]:
    config, _ = dagster_instance_config(str(ROOT))
    return dict(config)


# .env.example


def example_lines() -> dict[str, str]:
    found = re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(found) == len(dict(found)), "a variable is listed twice"
    return dict(found)


def test_the_example_env_file_lists_every_setting_and_no_other() -> None:
    assert {name for name in example_lines() if name.startswith(PREFIX)} == set(SETTINGS)


def test_the_example_env_file_shows_the_defaults() -> None:
    shown = {name: value for name, value in example_lines().items() if name in SETTINGS}
    assert shown == {name: "" if default is None else str(default) for name, default in SETTINGS.items()}


def test_the_example_env_file_changes_nothing_until_a_line_is_uncommented() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_the_example_env_file_lists_what_dagster_and_compose_take_from_the_environment() -> None:
    wanted = set(re.findall(r"env: (\w+)", (ROOT / "dagster.yaml").read_text()))
    wanted |= set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert wanted
    assert wanted <= set(example_lines())


# docker-compose.yml


def test_every_published_port_is_bound_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(port))] == []


def test_the_compose_file_holds_no_password() -> None:
    given = "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD in .env}"
    values = {
        (service_name, name): value
        for service_name, service in SERVICES.items()
        for name, value in service.get("environment", {}).items()
    }
    passwords = {value for (_, name), value in values.items() if "PASSWORD" in name}
    assert passwords == {given}
    assert [place for place, value in values.items() if re.search(r"//[^/@]*:[^/@]*@", str(value))] == []
    # The usual value for LocalStack, which checks no secret.
    assert {value for (_, name), value in values.items() if "SECRET" in name} == {"test"}


def test_the_compose_file_takes_a_password_and_settings_from_the_env_file_of_the_host_and_no_address() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    taken = set(re.findall(r"\$\{?(\w+)", text)) - {"POSTGRES_PASSWORD"}
    assert taken <= set(SETTINGS)
    # What `loginpipe local up` writes is for the host.
    written = {"LOGINPIPE_QUEUE", "LOGINPIPE_DATABASE_URL", "LOGINPIPE_TOKEN_KEYS", "LOGINPIPE_SEAL_KEY"}
    assert not taken & written
    assert [name for name, service in SERVICES.items() if "env_file" in service] == []


NOT_ON_THE_LAPTOP = {
    # A path of the host has no meaning in a container, and the default image cannot write Parquet.
    "LOGINPIPE_ARCHIVE_URL", "LOGINPIPE_COMPAT_SALT",
    # The stack makes the keys itself.
    "LOGINPIPE_SEAL_KEY_FINGERPRINT",
}  # fmt: skip


def test_every_setting_reaches_the_code_in_every_deployment_or_is_listed_as_not_meant_for_it() -> None:
    settings = set(SETTINGS)
    assert settings - set(SERVICES["code-server"]["environment"]) == NOT_ON_THE_LAPTOP
    assert settings - set(environment_in_production("code-server")) == set()
    config, _ = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "settings.yaml").read_text())
    secret = (ROOT / "deploy" / "kubernetes" / "external-secrets.example.yaml").read_text().split("\n---\n")[0]
    assert settings - set(config["data"]) == set(re.findall(r"LOGINPIPE_[A-Z_]+", secret))


def test_the_table_is_the_same_for_the_migrations_the_code_and_the_metrics() -> None:
    for services in (SERVICES, IN_PRODUCTION):
        tables = {name: service.get("environment", {}).get("LOGINPIPE_TABLE", "") for name, service in services.items()}
        with_database = {name for name in services if "LOGINPIPE_DATABASE_URL" in services[name].get("environment", {})}
        assert {tables[name] for name in with_database} in ({"${LOGINPIPE_TABLE:-}"}, {None})
    (migrate,) = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "migrate.yaml").read_text())
    (warehouse,) = migrate["spec"]["template"]["spec"]["initContainers"]
    sources = {variable["name"]: variable.get("valueFrom", {}) for variable in warehouse["env"]}
    assert sources["LOGINPIPE_TABLE"]["configMapKeyRef"]["name"] == "loginpipe-settings"


def test_the_compose_file_sets_only_settings_that_exist() -> None:
    names = {name for service in SERVICES.values() for name in service.get("environment", {})}
    assert {name for name in names if name.startswith(PREFIX)} <= set(SETTINGS)


def test_the_pipeline_connects_as_its_own_role_and_the_migrations_as_the_owner() -> None:
    urls = {name: service.get("environment", {}).get("LOGINPIPE_DATABASE_URL") for name, service in SERVICES.items()}
    users = {name: url.split("//")[1].split("@")[0] for name, url in urls.items() if url}
    assert users == {"migrate": "loginpipe", "code-server": "loginpipe_pipeline", "metrics": "loginpipe_pipeline"}
    script = (COMPOSE_FOLDER / "postgres" / "10-databases.sh").read_text()
    assert re.findall(r"IN ROLE (\w+)", script) == ["loginpipe_writer"]
    assert "CREATE DATABASE loginpipe OWNER loginpipe;" in script


def test_images_are_pinned() -> None:
    foreign = {service["image"] for name, service in SERVICES.items() if name not in OURS}
    dockerfile = (ROOT / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM .* AS (\S+)$", dockerfile, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) - stages
    assert bases == {"${PYTHON_IMAGE}"}
    bases = set(re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile, re.MULTILINE))
    assert foreign
    assert bases == {"python:3.11-slim"}
    # Images of others have a full version. Python has only a minor version, as in CI, because a release pins its
    # digest.
    assert [
        image for image in foreign if not re.fullmatch(r"[\w/]+:v?(\d+\.\d+\.\d+|(?<=postgres:)\d+\.\d+)", image)
    ] == []


def test_the_stand_ins_have_the_names_of_the_images_that_they_stand_for() -> None:
    script = (COMPOSE_FOLDER / "stand-ins.sh").read_text()
    made = {name for name in re.findall(r"^(?:base|image) (\S+) ", script, re.MULTILINE) if "loginpipe" not in name}
    named = {service["image"] for name, service in SERVICES.items() if name not in OURS} | {"python:3.11-slim"}
    # Debian has no package of Grafana.
    assert made == {name for name in named if not name.startswith("grafana/")}
    (removed,) = re.findall(r"docker image rm (.*)$", script, re.MULTILINE)
    assert set(removed.split()) == made | {"loginpipe-stand-in:trixie"}


@pytest.mark.parametrize("name", OURS)
def test_our_services_drop_every_privilege_and_cannot_write_to_their_image(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True


def test_only_the_service_that_makes_the_keys_sees_the_private_half_and_it_has_no_network() -> None:
    assert services_with("custody") == {"keys"}
    assert SERVICES["keys"]["network_mode"] == "none"
    assert SERVICES["keys"]["environment"]["LOGINPIPE_SEAL_KEY"].startswith("file:/keys/custody/")
    assert SERVICES["code-server"]["environment"]["LOGINPIPE_SEAL_KEY"].startswith("file:/keys/pipeline/")


def test_the_code_server_alone_holds_the_token_key_and_cannot_change_it() -> None:
    assert services_with("pipeline-keys") == {"keys", "code-server"}
    assert mounts(SERVICES["code-server"])["pipeline-keys"] == "ro"
    holders = {name for name, service in SERVICES.items() if "LOGINPIPE_TOKEN_KEYS" in service.get("environment", {})}
    assert holders == {"keys", "code-server"}


def test_every_volume_and_file_that_is_mounted_is_there() -> None:
    # If a mounted file is missing, Docker silently creates a folder.
    sources = {source for service in SERVICES.values() for source in mounts(service)}
    files = {source for source in sources if source.startswith(".")}
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert sources - files == set(COMPOSE["volumes"])


def test_the_laptops_file_says_that_it_is_not_for_production_and_what_is() -> None:
    header = (ROOT / "docker-compose.yml").read_text().split("\n\n")[0]
    assert "Not for production" in header
    assert "deploy/compose/production.yml" in header
    page = (ROOT / "docs" / "containers.md").read_text()
    assert "not for production" in page
    assert "deploy/compose/production.yml" in page


def test_the_scripts_can_be_executed() -> None:
    scripts = sorted(COMPOSE_FOLDER.rglob("*.sh"))
    assert scripts
    assert [script for script in scripts if not os.access(script, os.X_OK)] == []


def test_the_queue_that_the_code_server_reads_is_the_one_that_is_made_and_waited_for() -> None:
    queue = SERVICES["code-server"]["environment"]["LOGINPIPE_QUEUE"]
    script = (COMPOSE_FOLDER / "localstack" / "10-queues.sh").read_text()
    assert f"--queue-name {queue} " in script
    assert f"/{queue}?Action=" in SERVICES["localstack"]["healthcheck"]["test"][-1]


def test_the_workspace_in_compose_names_the_code_server_and_its_port() -> None:
    [entry] = load("deploy/compose/workspace.yaml")["load_from"]
    server = entry["grpc_server"]
    assert server["host"] in SERVICES
    command = SERVICES[server["host"]]["command"]
    assert command[command.index("-p") + 1] == str(server["port"])
    assert command[command.index("-m") + 1] == "loginpipe.definitions"


def test_every_service_that_stays_up_has_a_health_check() -> None:
    once = {name for name, service in SERVICES.items() if service.get("restart") == "no"}
    assert once == {"keys", "migrate"}
    assert [name for name in OURS if "healthcheck" not in SERVICES[name] and name not in once] == []


# Production on one machine


def production_text() -> str:
    return "".join((COMPOSE_FOLDER / name).read_text() for name in ("stack.yml", "production.yml"))


def environment_in_production(name: str) -> dict[str, Any]:
    environment: dict[str, Any] = IN_PRODUCTION[name]["environment"]
    return environment


def test_production_has_the_services_of_the_laptop_without_its_servers_and_its_keys() -> None:
    laptop_only = {"postgres", "localstack", "keys", "prometheus", "grafana"}
    assert set(IN_PRODUCTION) == set(SERVICES) - laptop_only | {"backup"}
    assert IN_PRODUCTION["backup"]["profiles"] == ["backup"]
    assert {name: service["extends"] for name, service in PRODUCTION["services"].items()} == {
        name: {"file": "stack.yml", "service": "migrate" if name == "backup" else name} for name in IN_PRODUCTION
    }
    assert set(IN_PRODUCTION) == {*STACK["services"], "backup"}
    text = production_text()
    assert "localstack" not in text.lower()
    assert "AWS_ENDPOINT_URL" not in text


def test_production_runs_the_image_of_a_release_and_builds_nothing_but_the_backups() -> None:
    asked_for = "${LOGINPIPE_IMAGE:?set LOGINPIPE_IMAGE to the image of a release, by its digest}"
    backup = IN_PRODUCTION["backup"]
    assert {service["image"] for service in IN_PRODUCTION.values() if service is not backup} == {asked_for}
    assert [name for name, service in IN_PRODUCTION.items() if "build" in service] == ["backup"]
    assert backup["build"] == {"context": "backup", "args": {"IMAGE": asked_for}}
    dockerfile = (COMPOSE_FOLDER / "backup" / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == ["${IMAGE}"]
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE)[-1] == "10001:10001"
    assert "postgresql-client" in dockerfile


def test_production_is_production_and_asks_for_verified_tls() -> None:
    urls = [
        value
        for service in IN_PRODUCTION.values()
        for name, value in service["environment"].items()
        if name in {"LOGINPIPE_DATABASE_URL", "DAGSTER_POSTGRES_URL"}
    ]
    assert len(urls) == 9
    assert {"LOGINPIPE_DATABASE_URL" in environment_in_production(name) for name in ("webserver", "daemon")} == {False}
    assert [url for url in urls if "?sslmode=verify-full&sslrootcert=/etc/loginpipe/database-ca.pem" not in url] == []
    ca = "/etc/loginpipe/database-ca.pem:/etc/loginpipe/database-ca.pem:ro"
    assert [name for name, service in IN_PRODUCTION.items() if ca not in service["volumes"]] == []
    assert {environment_in_production(name)["LOGINPIPE_ENV"] for name in IN_PRODUCTION} == {"production"}


def test_with_tokens_for_the_database_every_service_of_production_connects_by_them() -> None:
    """RDS refuses the password of a user who may connect with a token."""
    for name in IN_PRODUCTION:
        environment = environment_in_production(name)
        assert environment["LOGINPIPE_DATABASE_AUTH"] is None, "passed on"
        assert environment["AWS_REGION"] == "${AWS_REGION:?set AWS_REGION}"


def test_no_password_is_in_production_and_no_one_is_the_superuser() -> None:
    values = [
        (service, name, str(value or ""))
        for service, content in IN_PRODUCTION.items()
        for name, value in content["environment"].items()
    ]
    assert [name for _, name, _ in values if "PASSWORD" in name] == []
    assert [value for _, _, value in values if re.search(r"//[^/@]*:[^/@]*@", value)] == []
    # Passed from the environment of whoever starts it, or absent.
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    with_keys = {service for service, name, _ in values if name in keys}
    assert with_keys == {"code-server", "metrics"}
    assert {value for _, name, value in values if name in keys} == {""}
    assert {service for service, name, _ in values if name == "LOGINPIPE_TOKEN_KEYS"} == {"code-server"}
    users = {user for _, _, value in values for user in re.findall(r"://(\w+)@", value)}
    assert users == {"loginpipe", "loginpipe_pipeline", "dagster"}


def test_each_service_of_production_has_the_passwords_of_what_it_connects_as_and_no_others() -> None:
    header = (COMPOSE_FOLDER / "production.yml").read_text()
    held = {
        name: set(users.split(", "))
        for name, users in re.findall(r"^#   (\w+)\.pgpass +(\S.*?)  ", header, re.MULTILINE)
    }
    assert set(held) == set(PRODUCTION["secrets"])
    connected: dict[str, set[str]] = {name: set() for name in held}
    for service in IN_PRODUCTION.values():
        (secret,) = service["secrets"]
        assert secret["target"] == "pgpass"
        assert service["environment"]["PGPASSFILE"] == "/run/secrets/pgpass"
        for value in service["environment"].values():
            connected[secret["source"]] |= set(re.findall(r"://(\w+)@", str(value)))
    assert connected == held
    used = {name: service["secrets"][0]["source"] for name, service in IN_PRODUCTION.items()}
    assert used == {
        "migrate": "owner",
        "backup": "owner",
        "code-server": "pipeline",
        "metrics": "metrics",
        "webserver": "dagster",
        "daemon": "dagster",
    }
    assert PRODUCTION["secrets"] == {name: {"file": f"/etc/loginpipe/{name}.pgpass"} for name in held}


@pytest.mark.parametrize("name", sorted(set(IN_PRODUCTION) - {"backup"}))
def test_a_service_of_production_is_started_watched_and_locked_up_as_on_the_laptop(name: str) -> None:
    same = ("command", "healthcheck", "read_only", "cap_drop", "security_opt", "init", "restart", "ports")
    assert SERVICES[name]["tmpfs"] == ["/tmp"]
    assert {"type": "tmpfs", "target": "/tmp"} in IN_PRODUCTION[name]["volumes"]
    assert {key: IN_PRODUCTION[name].get(key) for key in same} == {key: SERVICES[name].get(key) for key in same}
    assert IN_PRODUCTION[name].get("stop_grace_period") == SERVICES[name].get("stop_grace_period")
    on = {service: how for service, how in SERVICES[name].get("depends_on", {}).items() if service in IN_PRODUCTION}
    assert IN_PRODUCTION[name].get("depends_on", {}) == on


def test_the_backups_of_production_are_as_locked_up() -> None:
    same = ("read_only", "cap_drop", "security_opt")
    backup = IN_PRODUCTION["backup"]
    assert {key: backup[key] for key in same} == {key: SERVICES["migrate"][key] for key in same}
    assert backup["command"][:3] == ["loginpipe", "backup", "create"]
    assert f"/var/backups/loginpipe:{backup['command'][3]}" in backup["volumes"]


def test_production_sets_only_settings_that_exist_and_says_what_is_missing() -> None:
    names = {name for service in IN_PRODUCTION.values() for name in service["environment"]}
    assert {name for name in names if name.startswith(PREFIX)} <= set(SETTINGS)
    text = production_text()
    variables = re.findall(r"\$\{(\w+)(:\?set \1[^}]*)?\}", text)
    assert len(variables) > 6
    assert [name for name, message in variables if not message] == []
    explained = (ROOT / "docs" / "containers.md").read_text()
    assert [name for name, _ in variables if name not in explained] == []


def test_compose_takes_the_file_of_production() -> None:
    if shutil.which("docker-compose"):
        compose = ["docker-compose"]
    elif shutil.which("docker") and subprocess.run(["docker", "compose", "version"], check=False).returncode == 0:
        compose = ["docker", "compose"]
    else:
        pytest.skip("Compose is not installed")
    text = production_text()
    given = dict.fromkeys(re.findall(r"\$\{(\w+)", text), "given")
    command = [*compose, "--file", str(COMPOSE_FOLDER / "production.yml"), "config"]
    clean = {name: value for name, value in os.environ.items() if name not in given and not name.startswith("COMPOSE_")}
    taken = subprocess.run(command, env={**clean, **given}, capture_output=True, text=True, check=False)
    assert taken.returncode == 0, taken.stderr
    assert set(yaml.safe_load(taken.stdout)["services"]) >= set(IN_PRODUCTION) - {"backup"}
    del given["DATABASE_HOST"]
    missing = subprocess.run(command, env={**clean, **given}, capture_output=True, text=True, check=False)
    assert missing.returncode != 0
    assert "DATABASE_HOST" in missing.stderr


def test_swarm_takes_the_stack_and_leaves_out_nothing_but_what_it_is_said_to() -> None:
    if not shutil.which("docker"):
        pytest.skip("there is no docker, whose client checks a stack")
    given = dict.fromkeys(re.findall(r"\$\{(\w+)", production_text()), "given")
    command = ["docker", "stack", "config", "--compose-file", str(COMPOSE_FOLDER / "stack.yml")]
    clean = {name: value for name, value in os.environ.items() if name not in given}
    taken = subprocess.run(command, env={**clean, **given}, capture_output=True, text=True, check=False)
    assert taken.returncode == 0, taken.stderr
    services = yaml.safe_load(taken.stdout)["services"]
    assert set(services) == set(IN_PRODUCTION) - {"backup"}
    del given["DATABASE_HOST"]
    missing = subprocess.run(command, env={**clean, **given}, capture_output=True, text=True, check=False)
    assert missing.returncode != 0
    assert "DATABASE_HOST" in missing.stderr


def test_what_swarm_would_pass_over_in_the_stack_is_none_of_what_locks_a_service_up() -> None:
    # Found with a real engine. It prints a message only for `restart` and `security_opt`.
    passed_over = {"tmpfs", "depends_on", "ports", "build", "container_name", "network_mode", "privileged", "devices"}
    for service in STACK["services"].values():
        assert not passed_over & set(service)
        # deploy/elk takes the lines from the machine's log.
        assert service["logging"] == {"driver": "${LOG_DRIVER:-local}"}
        # By default, Swarm's secrets belong to root and are readable by everyone, which libpq refuses.
        (secret,) = service["secrets"]
        assert (secret["uid"], secret["gid"], secret["mode"]) == ("10001", "10001", 0o400)
    assert STACK["services"]["migrate"]["deploy"] == {
        "mode": "replicated-job",
        "restart_policy": {"condition": "none"},
    }
    assert STACK["secrets"] == {
        name: {**secret, "name": f"loginpipe-{name}-${{SECRETS_VERSION:-1}}"}
        for name, secret in PRODUCTION["secrets"].items()
    }


# Runs in containers


def launcher() -> dict[str, Any]:
    config: dict[str, Any] = RUNS_DAGSTER["run_launcher"]["config"]
    return config


def test_the_instance_that_runs_containers_is_the_other_one_with_a_launcher() -> None:
    assert {name: part for name, part in RUNS_DAGSTER.items() if name != "run_launcher"} == load("dagster.yaml")
    mounted = {mount.split(":")[1]: mount.split(":")[0] for mount in RUNS["daemon"]["volumes"]}
    assert mounted["/opt/dagster/home/dagster.yaml"] == "./deploy/compose/runs-in-containers/dagster.yaml"


def test_a_run_container_is_as_locked_up_as_our_services() -> None:
    kwargs = launcher()["container_kwargs"]
    service = SERVICES["code-server"]
    assert {name: kwargs[name] for name in ("read_only", "cap_drop", "security_opt", "init")} == {
        name: service[name] for name in ("read_only", "cap_drop", "security_opt", "init")
    }
    assert list(kwargs["tmpfs"]) == service["tmpfs"]
    assert "privileged" not in kwargs
    assert kwargs["mem_limit"] == "1g"


def test_a_run_container_is_given_the_image_the_volumes_and_the_network_of_the_code_server() -> None:
    given = RUNS["code-server"]["environment"]
    assert given["DAGSTER_CURRENT_IMAGE"] == SERVICES["code-server"]["image"]
    context = re.sub(r"\$\{COMPOSE_PROJECT_NAME(:[^}]*)?\}", "project", given["DAGSTER_CONTAINER_CONTEXT"])
    docker = json.loads(context)["docker"]
    assert docker["networks"] == ["project_default"]
    assert docker["container_kwargs"]["volumes"] == [f"project_{mount}" for mount in SERVICES["code-server"]["volumes"]]


def test_a_run_container_gets_the_settings_of_the_code_server_by_name() -> None:
    code_server = {**SERVICES["code-server"]["environment"], **RUNS["code-server"]["environment"]}
    daemon = {**SERVICES["daemon"]["environment"], **RUNS["daemon"]["environment"]}
    # Settings of the sensor and the init process, and those for creating the container.
    not_the_runs = {
        "LOGINPIPE_MAX_RUNS", "TINI_KILL_PROCESS_GROUP", "DAGSTER_CURRENT_IMAGE", "DAGSTER_CONTAINER_CONTEXT",
    }  # fmt: skip
    names = launcher()["env_vars"]
    assert all(re.fullmatch(r"[A-Z_]+", name) for name in names)
    assert set(names) == set(code_server) - not_the_runs
    assert {name: daemon[name] for name in names} == {name: code_server[name] for name in names}


def test_only_the_daemon_holds_the_docker_socket_and_only_where_runs_are_containers() -> None:
    socket = "/var/run/docker.sock"
    assert [name for name, service in SERVICES.items() if socket in mounts(service)] == []
    assert [name for name, service in RUNS.items() if socket in mounts(service)] == ["daemon"]


# Monitoring


def test_prometheus_scrapes_the_metrics_service_and_grafana_asks_prometheus() -> None:
    (job,) = load("deploy/prometheus/prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["metrics:9464"]}]
    assert SERVICES["metrics"]["command"] == ["loginpipe", "metrics", "--host", "0.0.0.0"]
    assert SERVICES["metrics"]["ports"] == ["127.0.0.1:9464:9464"]
    (source,) = load("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_prometheus_and_grafana_start_only_when_asked_for_and_have_no_privileges() -> None:
    for name in ("prometheus", "grafana"):
        assert SERVICES[name]["profiles"] == ["monitoring"]
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


def test_the_dashboard_is_where_grafana_looks_for_it() -> None:
    (provider,) = load("deploy/grafana/provisioning/dashboards/loginpipe.yml")["providers"]
    targets = {mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]}
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in targets
    assert home.startswith(provider["options"]["path"])


# Dockerfile


STAGES = (ROOT / "Dockerfile").read_text().split("\nFROM ")
IMAGES = {"of Dagster": STAGES[-1], "of Lambda": next(stage for stage in STAGES if stage.startswith("base AS lambda"))}


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_runs_as_a_numbered_user_who_is_not_root(image: str) -> None:
    users = re.findall(r"^USER (.*)$", IMAGES[image], re.MULTILINE)
    assert users[-1:] == ["10001:10001"]


@pytest.mark.parametrize("image", IMAGES)
def test_there_is_nothing_in_the_image_to_install_more_with(image: str) -> None:
    (source,) = re.findall(r"COPY --from=(trimmed\S*) /opt/loginpipe ", IMAGES[image])
    (trimmed,) = [stage for stage in STAGES if stage.partition("\n")[0].endswith(f" AS {source}")]
    assert re.search(r"pip uninstall --yes (loginpipe )?setuptools pip", trimmed)
    assert " install " not in re.sub(r"install --directory", "", IMAGES[image])


def test_the_image_of_lambda_has_no_dagster_and_starts_the_handler() -> None:
    (trimmed,) = [stage for stage in STAGES if stage.startswith("tools AS trimmed-lambda")]
    assert re.findall(r'pip install .*"(.*)"', trimmed) == [".[lambda]"]
    (handler,) = re.findall(r'^CMD \["(.*)"\]$', IMAGES["of Lambda"], re.MULTILINE)
    assert callable(pkgutil.resolve_name(handler))


def test_only_files_that_are_listed_can_get_into_the_image() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    let_in = [pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")]
    assert patterns[0] == "*"
    assert [name for name in let_in if name.startswith(".") or not (ROOT / name).exists()] == []


# dagster.yaml, workspace.yaml


def test_dagster_accepts_the_instance_file(dagster_config: dict[str, Any]) -> None:
    assert dagster_config["storage"]["custom"]["config"] == {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}
    assert dagster_config["telemetry"] == {"enabled": False}


def test_runs_are_queued_and_dequeued_every_second() -> None:
    coordinator = InstanceRef.from_dir(str(ROOT)).run_coordinator
    assert isinstance(coordinator, QueuedRunCoordinator)
    assert coordinator.dequeue_interval_seconds == 1


def test_runs_on_one_queue_are_capped_above_what_the_sensor_asks_for(dagster_config: dict[str, Any]) -> None:
    runs = dagster_config["concurrency"]["runs"]
    [limit] = [limit for limit in runs["tag_concurrency_limits"] if limit["key"] == QUEUE_TAG]
    assert limit["value"] == {"applyLimitPerUniqueValue": True}
    # A run and its successor overlap for some time.
    assert 2 * SETTINGS["LOGINPIPE_MAX_RUNS"] <= limit["limit"] < runs["max_concurrent_runs"]


@pytest.mark.parametrize(
    "name", ["dagster.yaml", "deploy/aws/dagster.yaml", "deploy/compose/runs-in-containers/dagster.yaml"]
)
def test_the_step_has_the_same_cap_whoever_starts_it_and_a_killed_run_gives_its_place_back(name: str) -> None:
    config = yaml.safe_load((ROOT / name).read_text())
    limits = {limit["key"]: limit["limit"] for limit in config["concurrency"]["runs"]["tag_concurrency_limits"]}
    assert config["concurrency"]["pools"] == {"default_limit": 8, "granularity": "op"}
    assert limits[QUEUE_TAG] == 8
    assert 0 < config["run_monitoring"]["free_slots_after_run_end_seconds"] <= 60
    assert InstanceRef.from_dir(str(ROOT)).settings["concurrency"]["pools"]["default_limit"] == 8


def test_what_comes_after_the_chain_never_takes_the_places_of_ingestion(dagster_config: dict[str, Any]) -> None:
    runs = dagster_config["concurrency"]["runs"]
    limits = {(limit["key"], "value" in limit): limit["limit"] for limit in runs["tag_concurrency_limits"]}
    assert limits[QUEUE_TAG, True] + limits[DOWNSTREAM_TAG, False] <= runs["max_concurrent_runs"]
    assert limits[DOWNSTREAM_TAG, True] == 1, "one run a job"
    for name in ("deploy/aws/dagster.yaml", "deploy/compose/runs-in-containers/dagster.yaml"):
        assert yaml.safe_load((ROOT / name).read_text())["concurrency"] == dagster_config["concurrency"]
    jobs = {job.name: job.tags for job in build_definitions().resolve_all_job_defs() if job.name != "__ASSET_JOB"}
    ingestion = jobs.pop(INGEST_JOB)
    assert DOWNSTREAM_TAG not in ingestion
    assert {name: tags[DOWNSTREAM_TAG] for name, tags in jobs.items()} == {name: name for name in jobs}
    assert {tags["dagster/priority"] for tags in jobs.values()} == {"-1"}
    assert int(ingestion["dagster/priority"]) > 0, "before what a person launches, too"


def test_a_crashed_worker_is_retried_and_a_failed_asset_is_not(dagster_config: dict[str, Any]) -> None:
    assert dagster_config["run_retries"] == {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False}


def test_a_run_that_never_ends_is_ended_but_none_whose_time_is_not_up(dagster_config: dict[str, Any]) -> None:
    monitoring = dagster_config["run_monitoring"]
    assert monitoring["enabled"] is True
    assert monitoring["start_timeout_seconds"] > 0
    assert monitoring["max_runtime_seconds"] >= SETTINGS["LOGINPIPE_RUN_SECONDS"] + GRACE_SECONDS
    assert monitoring["cancel_timeout_seconds"] > SETTINGS["LOGINPIPE_VISIBILITY_SECONDS"]


def test_a_run_has_the_time_to_finish_its_batch_and_the_memory_for_two() -> None:
    for services in (SERVICES, IN_PRODUCTION):
        assert services["code-server"]["stop_grace_period"] == "30s"
        # Otherwise the signal reaches only the code server, which does not pass it to its runs.
        assert services["code-server"]["environment"]["TINI_KILL_PROCESS_GROUP"] == "1"
    container = RUNS_DAGSTER["run_launcher"]["config"]["container_kwargs"]
    assert container["stop_timeout"] >= 30
    assert container["mem_limit"] == "1g"


def test_no_tick_is_kept_for_ever(dagster_config: dict[str, Any]) -> None:
    for kind in ("sensor", "schedule"):
        days = dagster_config["retention"][kind]["purge_after_days"]
        assert set(days) == {"skipped", "started", "success", "failure"}
        assert min(days.values()) > 0


def test_the_workspace_loads_the_definitions_as_one_location() -> None:
    location = {"module_name": "loginpipe.definitions", "location_name": "loginpipe"}
    assert load("workspace.yaml") == {"load_from": [{"python_module": location}]}


def test_pyproject_has_no_block_that_would_shadow_the_workspace() -> None:
    assert "dagster" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
