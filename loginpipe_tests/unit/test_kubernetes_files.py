"""The Kubernetes files are locked down, hold no secret and match the code; `make kubernetes` has the schemas."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from loginpipe.common.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = list(
    itertools.chain.from_iterable(
        yaml.safe_load_all((FOLDER / name).read_text()) for name in KUSTOMIZATION["resources"]
    )
)
LOCKED_UP = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
(CODE,) = VALUES["dagster-user-deployments"]["deployments"]
LAUNCHER = VALUES["runLauncher"]["config"]["k8sRunLauncher"]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {manifest["metadata"]["name"]: manifest for manifest in MANIFESTS if manifest["kind"] == kind}


PODS = {
    "migrate": of_kind("Job")["migrate"]["spec"]["template"],
    "metrics": of_kind("Deployment")["metrics"]["spec"]["template"],
}
CONTAINERS = {role: pod["spec"].get("initContainers", []) + pod["spec"]["containers"] for role, pod in PODS.items()}
POLICIES = {name: policy["spec"] for name, policy in of_kind("NetworkPolicy").items()}
# The security contexts of each part in the chart: of its pod, and of its container.
CHART = {
    "webserver": (VALUES["dagsterWebserver"]["podSecurityContext"], VALUES["dagsterWebserver"]["securityContext"]),
    "daemon": (VALUES["dagsterDaemon"]["podSecurityContext"], VALUES["dagsterDaemon"]["securityContext"]),
    "code": (CODE["podSecurityContext"], CODE["securityContext"]),
    "run": (LAUNCHER["runK8sConfig"]["podSpecConfig"]["securityContext"], LAUNCHER["securityContext"]),
}


# The probes of each part of the chart.
WATCHED = {"webserver": VALUES["dagsterWebserver"], "daemon": VALUES["dagsterDaemon"], "code": CODE}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def text_of_commands(path: Path) -> str:
    """Return the text of a page or file with each command on one line."""
    return re.sub(r"\\\n\s*(# )?", "", path.read_text())


def test_every_file_is_applied_or_known_not_to_be() -> None:
    others = {"kustomization.yaml", "values.yaml", "external-secrets.example.yaml"}
    assert {path.name for path in FOLDER.glob("*.yaml")} - others == set(KUSTOMIZATION["resources"])


@pytest.mark.parametrize("role", PODS)
def test_a_pod_of_ours_is_locked_up(role: str) -> None:
    pod = PODS[role]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in CONTAINERS[role]:
        assert container["securityContext"] == LOCKED_UP
        assert "memory" in container["resources"]["limits"]
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


@pytest.mark.parametrize("role", CHART)
def test_a_pod_of_the_chart_is_told_to_be_as_locked_up(role: str) -> None:
    pod, container = CHART[role]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == LOCKED_UP


def test_no_secret_is_in_the_files() -> None:
    assert of_kind("Secret") == {}
    assert VALUES["generatePostgresqlPasswordSecret"] is False
    assert "postgresqlPassword" not in VALUES["postgresql"]
    containers = [container for pod in CONTAINERS.values() for container in pod]
    variables = [variable for container in containers for variable in container.get("env", [])]
    given = {variable["name"]: variable["value"] for variable in variables if "value" in variable}
    assert set(given) == {"LOGINPIPE_ENV", "DAGSTER_POSTGRES_URL"}
    assert re.search(r"//[^/@]*:[^/@]*@", given["DAGSTER_POSTGRES_URL"]) is None
    assert "LOGINPIPE_DATABASE_URL" not in of_kind("ConfigMap")["loginpipe-settings"]["data"]


def test_every_secret_that_is_referred_to_is_in_the_example() -> None:
    examples = {
        secret["spec"]["target"]["name"]: {entry["secretKey"] for entry in secret["spec"]["data"]}
        for secret in yaml.safe_load_all((FOLDER / "external-secrets.example.yaml").read_text())
    }
    for container in itertools.chain.from_iterable(CONTAINERS.values()):
        for variable in container["env"]:
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert reference["key"] in examples[reference["name"]]
    assert "postgresql-password" in examples[VALUES["global"]["postgresqlSecretName"]]
    assert {source["name"] for source in CODE["envSecrets"]} <= set(examples)


def test_every_config_map_that_is_referred_to_is_there() -> None:
    named = {
        source["configMap"]["name"]
        for volumes in (*(pod["spec"]["volumes"] for pod in PODS.values()), CODE["volumes"])
        for source in volumes
        if "configMap" in source
    }
    for container in itertools.chain.from_iterable(CONTAINERS.values()):
        named |= {source["configMapRef"]["name"] for source in container.get("envFrom", [])}
        sources = [variable.get("valueFrom", {}) for variable in container["env"]]
        named |= {source["configMapKeyRef"]["name"] for source in sources if "configMapKeyRef" in source}
    assert named == set(of_kind("ConfigMap"))
    assert CONTAINERS["metrics"][0]["envFrom"] == [{"configMapRef": {"name": "loginpipe-settings"}}]


def test_the_settings_are_settings_of_production() -> None:
    settings = of_kind("ConfigMap")["loginpipe-settings"]["data"]
    ours = {name.removeprefix(PREFIX).lower() for name in settings if name.startswith(PREFIX)}
    assert ours <= set(Settings.model_fields)
    assert settings["LOGINPIPE_ENV"] == "production"
    assert settings["LOGINPIPE_TOKEN_KEYS"].startswith("awskms:")
    assert [source["name"] for source in CODE["envConfigMaps"]] == ["loginpipe-settings"]


def test_no_one_talks_to_anybody_unless_a_policy_says_so() -> None:
    assert POLICIES["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    text = (FOLDER / "network-policies.yaml").read_text()
    assert "0.0.0.0/0" not in text
    rules = [rule for policy in POLICIES.values() for way in ("ingress", "egress") for rule in policy.get(way, [])]
    assert rules
    assert [rule for rule in rules if not rule.get("ports") or not (rule.get("to") or rule.get("from"))] == []
    peers = [peer for rule in rules for peer in (*rule.get("to", []), *rule.get("from", []))]
    # An empty selector is every pod or namespace of the cluster.
    assert [peer for peer in peers if not all(peer.values())] == []


def test_a_node_can_be_drained() -> None:
    replicas = {
        "webserver": VALUES["dagsterWebserver"]["replicaCount"],
        "metrics": of_kind("Deployment")["metrics"]["spec"]["replicas"],
    }
    budgets = {name: budget["spec"]["minAvailable"] for name, budget in of_kind("PodDisruptionBudget").items()}
    assert budgets == {name: number - 1 for name, number in replicas.items()}


def test_the_policies_name_roles_that_there_are() -> None:
    roles = {pod["metadata"]["labels"]["loginpipe/role"] for pod in PODS.values()}
    roles |= {VALUES[part]["labels"]["loginpipe/role"] for part in ("dagsterWebserver", "dagsterDaemon")}
    # The policies treat a run like the code server.
    assert CODE["labels"] == LAUNCHER["labels"]
    roles.add(CODE["labels"]["loginpipe/role"])
    selectors = [policy["podSelector"] for policy in POLICIES.values()]
    selectors += [budget["spec"]["selector"] for budget in of_kind("PodDisruptionBudget").values()]
    named = {selector["matchLabels"]["loginpipe/role"] for selector in selectors if "matchLabels" in selector}
    for selector in selectors:
        for expression in selector.get("matchExpressions", []):
            named |= set(expression.get("values", []))
    assert named <= roles


def test_aws_can_be_reached_by_those_alone_who_have_a_role_of_it() -> None:
    with_a_role = {name for name, account in of_kind("ServiceAccount").items() if "annotations" in account["metadata"]}
    assert with_a_role == {"loginpipe", "loginpipe-metrics"}
    # The chart must not create accounts without the role, or with a token.
    assert VALUES["dagster-user-deployments"]["serviceAccount"] == {"create": False, "name": "loginpipe"}
    assert VALUES["serviceAccount"] == {"create": False, "name": "dagster"}
    assert LAUNCHER["runK8sConfig"]["podSpecConfig"]["serviceAccountName"] == "loginpipe"
    assert PODS["metrics"]["spec"]["serviceAccountName"] == "loginpipe-metrics"
    (expression,) = POLICIES["pipeline-to-aws"]["podSelector"]["matchExpressions"]
    assert set(expression["values"]) == {"code", "metrics"}


def test_the_ports_of_policies_and_pods_agree() -> None:
    def port(policy: str, way: str) -> int:
        (rule,) = POLICIES[policy][way]
        number: int = rule["ports"][0]["port"]
        return number

    assert port("code-server-from-dagster", "ingress") == port("dagster-to-code-server", "egress") == CODE["port"]
    assert port("webserver-from-ingress", "ingress") == VALUES["dagsterWebserver"]["service"]["port"]
    assert port("metrics-from-prometheus", "ingress") == 9464
    assert port("everyone-to-postgres", "egress") == VALUES["postgresql"]["service"]["port"]


def test_the_ui_is_not_let_out_and_where_it_is_someone_asks_who_is_there() -> None:
    assert VALUES["dagsterWebserver"]["service"]["type"] == "ClusterIP"
    assert VALUES["ingress"]["enabled"] is False
    assert any("auth-url" in name for name in VALUES["ingress"]["annotations"])


def as_in_values(part: Any) -> Any:
    """Return the same with the names of the chart's values: defaultLimit for default_limit."""
    if isinstance(part, dict):
        return {re.sub("_(.)", lambda found: found[1].upper(), name): as_in_values(of) for name, of in part.items()}
    return [as_in_values(item) for item in part] if isinstance(part, list) else part


def settings_of(part: Any, place: str = "") -> dict[str, Any]:
    """Return every setting below this part by its path, such as concurrency.pools.defaultLimit."""
    if not isinstance(part, dict):
        return {place: part}
    return {
        at: value for name, of in part.items() for at, value in settings_of(of, f"{place}.{name}".strip(".")).items()
    }


def test_the_instance_has_the_same_limits_and_timeouts_as_everywhere() -> None:
    everywhere = as_in_values(yaml.safe_load((ROOT / "dagster.yaml").read_text()))
    # The chart makes Dagster's storage from `postgresql`; a pod has no `.env`.
    assert everywhere.pop("storage")
    assert everywhere.pop("secrets")
    daemon = VALUES["dagsterDaemon"]
    here = {
        "runQueue": daemon["runCoordinator"]["config"]["queuedRunCoordinator"],
        **{name: daemon[name] for name in ("runMonitoring", "runRetries", "sensors", "schedules")},
        **{name: VALUES[name] for name in ("concurrency", "retention", "pythonLogs", "telemetry")},
        **as_in_values(VALUES["additionalInstanceConfig"]),
    }
    only_here = {
        "concurrency.enabled": True,
        "retention.enabled": True,
        "runMonitoring.maxResumeRunAttempts": 0,
        "runMonitoring.startTimeoutSeconds": 600,
    }
    assert settings_of(here) == settings_of(everywhere) | only_here
    assert (daemon["runCoordinator"]["enabled"], daemon["runCoordinator"]["type"]) == (True, "QueuedRunCoordinator")
    # Neither Kubernetes nor Dagster restarts a run that has ended.
    assert LAUNCHER["runK8sConfig"]["jobSpecConfig"]["backoffLimit"] == 0
    assert LAUNCHER["failPodOnRunFailure"] is False


def test_a_run_has_the_time_to_finish_its_batch_and_the_memory_for_two() -> None:
    assert LAUNCHER["runK8sConfig"]["podSpecConfig"]["terminationGracePeriodSeconds"] >= 30
    assert LAUNCHER["resources"]["limits"] == {"memory": "1Gi"}


def test_runs_get_what_the_launcher_says_and_the_code_server_adds_nothing() -> None:
    assert LAUNCHER["runK8sConfig"]["podSpecConfig"]["automountServiceAccountToken"] is False
    assert CODE["includeConfigInLaunchedRuns"] == {"enabled": False}
    for same in ("envConfigMaps", "envSecrets", "volumes", "volumeMounts", "securityContext", "labels"):
        assert LAUNCHER[same] == CODE[same], same
    assert LAUNCHER["resources"] != CODE["resources"]


def test_no_account_but_dagsters_may_make_pods() -> None:
    # In the chart, in its part for the code, and in our own manifests.
    assert VALUES["rbacEnabled"] is False
    assert VALUES["dagster-user-deployments"]["rbacEnabled"] is False
    bound = {subject["name"] for binding in of_kind("RoleBinding").values() for subject in binding["subjects"]}
    assert bound == {"dagster"}
    (role,) = of_kind("Role").values()
    rights = {name: set(rule["verbs"]) for rule in role["rules"] for name in rule["resources"]}
    assert set(rights) == {"jobs", "jobs/status", "pods", "pods/log", "pods/status", "events"}
    assert {name for name, verbs in rights.items() if verbs - {"get", "list", "watch"}} == {"jobs", "jobs/status"}
    # The chart cannot say so for the code server's pod.
    with_token = {name for name, a in of_kind("ServiceAccount").items() if a.get("automountServiceAccountToken", True)}
    assert with_token == {"dagster"}


def test_a_cluster_without_a_way_to_docker_hub_gets_every_image_from_its_registry() -> None:
    parts = (VALUES["dagsterWebserver"], VALUES["dagsterDaemon"], CODE, VALUES["busybox"])
    assert {part["image"]["repository"].split("/")[0] for part in parts} == {"REGISTRY"}
    for part in ("dagsterWebserver", "dagsterDaemon"):
        assert VALUES[part]["checkDbReadyInitContainer"] is False
    busybox = "busybox:" + VALUES["busybox"]["image"]["tag"]
    assert f"docker://REGISTRY/{busybox}" in (FOLDER / "README.md").read_text()


def test_one_image_runs_every_role() -> None:
    (image,) = KUSTOMIZATION["images"]
    ours = {container["image"] for pod in CONTAINERS.values() for container in pod}
    assert ours == {image["name"]}
    for part in (VALUES["dagsterWebserver"], VALUES["dagsterDaemon"], CODE):
        assert (part["image"]["repository"], part["image"]["tag"]) == (image["newName"], image["newTag"])


def test_the_migrations_are_those_of_both_databases_and_each_has_one_login() -> None:
    commands = {container["name"]: container["args"] for container in CONTAINERS["migrate"]}
    assert commands == {"warehouse": ["loginpipe", "migrate"], "dagster": ["dagster", "instance", "migrate"]}
    # If an init container fails, the next does not start.
    assert [container["name"] for container in PODS["migrate"]["spec"]["initContainers"]] == ["warehouse"]
    secrets = {
        container["name"]: {
            variable["valueFrom"]["secretKeyRef"]["name"]
            for variable in container["env"]
            if "secretKeyRef" in variable.get("valueFrom", {})
        }
        for container in itertools.chain.from_iterable(CONTAINERS.values())
    }
    assert secrets == {
        "warehouse": {"loginpipe-owner"},
        "dagster": {VALUES["global"]["postgresqlSecretName"]},
        "metrics": {"loginpipe"},
    }
    assert CODE["envSecrets"] == [{"name": "loginpipe"}]


def test_the_migration_finds_dagsters_storage_where_the_chart_is_told_that_it_is() -> None:
    (dagster,) = PODS["migrate"]["spec"]["containers"]
    url = next(variable["value"] for variable in dagster["env"] if variable["name"] == "DAGSTER_POSTGRES_URL")
    storage = VALUES["postgresql"]
    assert storage["postgresqlParams"]["sslmode"] == "verify-full"
    parameters = "&".join(f"{name}={value}" for name, value in storage["postgresqlParams"].items())
    assert url == (
        f"{storage['postgresqlScheme']}://{storage['postgresqlUsername']}@{storage['postgresqlHost']}"
        f":{storage['service']['port']}/{storage['postgresqlDatabase']}?{parameters}"
    )


@pytest.mark.parametrize("role", WATCHED)
def test_every_role_of_the_chart_is_given_time_to_start_and_started_anew_when_it_hangs(role: str) -> None:
    starts, lives = WATCHED[role]["startupProbe"], WATCHED[role]["livenessProbe"]
    # The chart leaves out a startup probe that is not enabled.
    assert starts["enabled"] is True
    assert starts["periodSeconds"] * starts["failureThreshold"] >= 180
    assert lives["periodSeconds"] * lives["failureThreshold"] >= 180
    assert lives["timeoutSeconds"] >= 10
    how = ({"httpGet", "exec"} & set(lives)).pop()
    assert starts[how] == lives[how]


def test_what_others_call_is_called_only_once_it_is_ready() -> None:
    assert WATCHED["webserver"]["readinessProbe"]["httpGet"] == WATCHED["webserver"]["livenessProbe"]["httpGet"]
    # With a command, the chart would pass `enabled` on to Kubernetes, which does not know it.
    assert WATCHED["code"]["readinessProbe"]["enabled"] is True
    assert "exec" not in WATCHED["code"]["readinessProbe"]
    assert "readinessProbe" not in WATCHED["daemon"]
    assert "readinessProbe" in CONTAINERS["metrics"][0]


def test_the_probes_ask_what_the_health_checks_of_compose_ask() -> None:
    web = WATCHED["webserver"]["livenessProbe"]["httpGet"]
    assert web == {"path": "/server_info", "port": VALUES["dagsterWebserver"]["service"]["port"]}
    assert f"http://127.0.0.1:{web['port']}{web['path']}" in COMPOSE["webserver"]["healthcheck"]["test"][-1]
    for role, service in {"daemon": "daemon", "code": "code-server"}.items():
        assert ["CMD", *WATCHED[role]["livenessProbe"]["exec"]["command"]] == COMPOSE[service]["healthcheck"]["test"]
    assert f"127.0.0.1:{CODE['port']}" in CODE["livenessProbe"]["exec"]["command"][-1]


def test_every_command_to_a_cluster_names_the_namespace() -> None:
    pages = [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        FOLDER / "README.md",
        *sorted(FOLDER.glob("*.yaml")),
    ]
    # `kubectl kustomize` only builds, and calls no cluster.
    commands = [
        command
        for page in pages
        for command in re.findall(r"(?:kubectl|helm (?:upgrade|rollback|uninstall)) [^`\n]*", text_of_commands(page))
        if not re.match(r"kubectl (kustomize|`|is |installed)", command)
    ]
    assert len(commands) > 5
    assert [command for command in commands if "--namespace loginpipe" not in command] == []


def test_a_release_waits_for_the_migrations_before_its_code_comes() -> None:
    text = text_of_commands(FOLDER / "README.md")
    release = text[text.index("For a new release") :].split("\n## ")[0]
    order = ["delete job migrate", "apply --kustomize", "wait --for=condition=complete", "helm upgrade"]
    assert [release.index(part) for part in order] == sorted(release.index(part) for part in order)
    deadline = of_kind("Job")["migrate"]["spec"]["activeDeadlineSeconds"]
    waits = re.findall(
        r"wait --for=condition=complete( --timeout=(\d+)m)?", text + (FOLDER / "migrate.yaml").read_text()
    )
    assert len(waits) == 3
    # By default, kubectl waits for half a minute.
    assert {int(minutes or 0) * 60 for _, minutes in waits} == {deadline}
