"""What is applied to the cluster, by hand or by Dagster, is what Kubernetes' published schemas allow: no field misspelt.

`make kubernetes` runs this: the schemas weigh too much to be installed for every test run.
"""

import itertools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import DagsterK8sJobConfig, construct_dagster_k8s_job
from kubernetes.client import ApiClient, Configuration

FOLDER = Path(__file__).parents[1]
# The oldest that cloud providers still run, and the newest that has been published.
VERSIONS = ["1.31.0", "1.37.0"]
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


def test_kustomize_builds_the_folder() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    built = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True)
    manifests = list(yaml.safe_load_all(built.stdout))
    assert len(manifests) == len(MANIFESTS)
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


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


def job_of_a_run() -> dict[str, Any]:
    """The Job that dagster-k8s makes for a run, given what the chart hands on of the values.

    Which is the launcher's part, and with `includeConfigInLaunchedRuns` that of the deployment with the code.
    """
    launcher = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    deployment = CODE
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": True}
    context = K8sContainerContext.create_from_config(
        {
            "k8s": {
                "resources": launcher["resources"],
                "security_context": launcher["securityContext"],
                "service_account_name": VALUES["serviceAccount"]["name"],
                "run_k8s_config": {
                    "pod_template_spec_metadata": launcher["runK8sConfig"]["podTemplateSpecMetadata"],
                    "pod_spec_config": launcher["runK8sConfig"]["podSpecConfig"],
                    "job_spec_config": launcher["runK8sConfig"]["jobSpecConfig"],
                },
            }
        }
    ).merge(
        K8sContainerContext.create_from_config(
            {
                "k8s": {
                    "env_config_maps": [source["name"] for source in deployment["envConfigMaps"]],
                    "env_secrets": [source["name"] for source in deployment["envSecrets"]],
                    "volumes": deployment["volumes"],
                    "volume_mounts": deployment["volumeMounts"],
                    "labels": deployment["labels"],
                }
            }
        )
    )
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
    assert container["resources"]["limits"] == {"memory": "1Gi"}
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
    assert {"secretRef": {"name": "loginpipe"}} in container["envFrom"]
