"""What runs: each in a locked-down container, with settings that loginpipe knows, behind a sign-in."""

import json
import re
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
import yaml
from aws_cdk.assertions import Match, Template

from iam import Account, allowed
from loginpipe_aws.environments import read_environment
from loginpipe_aws.quotas import DEFAULT_MAX_RUNS, vcpus
from loginpipe_aws.services import peak_cpu

AWS = Path(__file__).parents[2]
ROOT = AWS.parents[1]
ONE_OFF = {"prepare", "migrate", "check", "redrive"}
COUNTING = {"metrics", "redrive", "metrics-partners", "redrive-partners"}
"""They ask queue and database, and hold no key."""
SERVICES = ("CodeServer", "Daemon", "Webserver")
NOT_MEANT = {"LOGINPIPE_ALERT_WEBHOOK_URL"}
"""Tasks have no way to a webhook: alerts go to the topic."""
DOCUMENTED = set(re.findall(r"^#(LOGINPIPE_[A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
"""Every setting there is: a test of the project holds the example to the code."""
PIPELINE_SETTINGS = DOCUMENTED - NOT_MEANT
SECRETLESS = {"LOGINPIPE_TOKEN_KEYS", "LOGINPIPE_SEAL_KEY", "LOGINPIPE_SEAL_KEY_FINGERPRINT", "LOGINPIPE_ARCHIVE_URL",
              "LOGINPIPE_ALERT_SNS_TOPIC"}  # fmt: skip
"""What only those need that load the code."""
OURS = {"LOGINPIPE_RUN_TASK_DEFINITION", "LOGINPIPE_COMPUTE_LOGS_BUCKET", "LOGINPIPE_CODE_SERVER_HOST"}
"""Read by dagster.yaml and workspace.yaml beside the app, and by nothing else."""


def containers(account: Account) -> dict[str, dict[str, Any]]:
    """Family → its one container."""
    found = {}
    for task in account.of("AWS::ECS::TaskDefinition"):
        (container,) = task.properties["ContainerDefinitions"]
        found[task.properties["Family"].removeprefix("loginpipe-")] = container
    return found


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {each["Name"]: each["Value"] for each in container["Environment"]}


def test_there_is_a_task_for_each_part(account: Account) -> None:
    of_queues = {"run", "codeserver", "metrics", "redrive"}
    assert set(containers(account)) == {
        *ONE_OFF, *of_queues, *(f"{part}-partners" for part in of_queues), "daemon", "webserver",
    }  # fmt: skip


def test_every_container_is_read_only_unprivileged_and_without_capabilities(account: Account) -> None:
    for name, container in containers(account).items():
        assert container["ReadonlyRootFilesystem"] is True, name
        assert container["Privileged"] is False
        assert container["User"] == "10001:10001"
        assert container["LinuxParameters"] == {"Capabilities": {"Drop": ["ALL"]}, "InitProcessEnabled": True}
        assert [mount["ContainerPath"] for mount in container["MountPoints"]] == ["/tmp"]
        assert container["LogConfiguration"]["LogDriver"] == "awslogs"
        assert container["Image"].endswith(":1.0.0")


def test_every_variable_is_one_that_loginpipe_or_dagster_yaml_reads(account: Account) -> None:
    for container in containers(account).values():
        ours = {name for name in environment(container) if name.startswith("LOGINPIPE_")}
        assert ours <= DOCUMENTED | OURS


@pytest.mark.parametrize("part", ["run", "codeserver", "check", "run-partners", "codeserver-partners"])
def test_what_loads_the_code_is_told_every_setting_there_is(account: Account, part: str) -> None:
    given = environment(containers(account)[part])
    # Each value of the example is set: what a setting lacks here cannot be passed at all.
    assert {name for name in given if name.startswith("LOGINPIPE_")} - OURS == PIPELINE_SETTINGS
    assert given["LOGINPIPE_ENV"] == "production"
    assert given["LOGINPIPE_TOKEN_KEYS"].startswith("awskms:v1=")
    assert given["LOGINPIPE_ARCHIVE_URL"].endswith("/archive")
    asked = {
        "BATCH_MESSAGES": "25000", "LINGER_SECONDS": "1", "RUN_SECONDS": "300", "RECEIVERS": "16",
        "MAX_RUNS": "2" if part.endswith("-partners") else "6",
        "MAX_REJECT_RATE": "0.1", "ENVELOPE": "sns", "BRAKE": "off", "EXTRA_FIELDS": "country,session_id",
        "PLACEHOLDERS": "test-device,192.0.2.1", "TABLE": "public.user_logins",
        "COMPAT_SALT": "secretsmanager:arn:aws:secretsmanager:eu-central-1:111122223333:secret:loginpipe/salt-AbCdEf",
    }  # fmt: skip
    assert {name: given[f"LOGINPIPE_{name}"] for name in asked} == asked


@pytest.mark.parametrize("part", sorted(COUNTING))
def test_what_counts_is_told_of_queue_and_table_and_holds_no_key(account: Account, part: str) -> None:
    given = set(environment(containers(account)[part]))
    assert given >= PIPELINE_SETTINGS - SECRETLESS
    assert not given & SECRETLESS
    assert [secret["Name"] for secret in containers(account)[part]["Secrets"]] == ["PIPELINE_PASSWORD"]


def test_the_migrations_are_told_which_table(account: Account) -> None:
    assert environment(containers(account)["migrate"])["LOGINPIPE_TABLE"] == "public.user_logins"


def test_every_image_for_aws_is_built_for_the_processor_of_its_tasks(account: Account) -> None:
    assert {
        task.properties["RuntimePlatform"]["CpuArchitecture"] for task in account.of("AWS::ECS::TaskDefinition")
    } == {"X86_64"}
    pages = (AWS / "README.md", ROOT / "docs" / "lambda.md", ROOT / ".github" / "workflows" / "release.yml")
    builds = [
        command
        for page in pages
        for command in re.findall(
            r"\b(?:docker build|make (?:-C \S+ )?image) .*", page.read_text().replace("\\\n", " ")
        )
    ]
    assert len(builds) == 7
    assert [command for command in builds if "--platform linux/amd64" not in command] == []


def test_a_run_has_the_size_that_was_asked_for(account: Account) -> None:
    run = account.one("AWS::ECS::TaskDefinition", "ServicesRun").properties
    assert (run["Cpu"], run["Memory"]) == ("2048", "4096")


def test_the_look_before_the_services_has_the_role_the_logins_and_the_settings_of_a_run(account: Account) -> None:
    check = account.one("AWS::ECS::TaskDefinition", "SetupCheck").properties
    run = account.one("AWS::ECS::TaskDefinition", "ServicesRun").properties
    assert check["TaskRoleArn"] == run["TaskRoleArn"]
    (looks,), (runs,) = check["ContainerDefinitions"], run["ContainerDefinitions"]
    for same in ("Environment", "Secrets", "Image", "EntryPoint"):
        assert looks[same] == runs[same], same
    assert "loginpipe doctor" in looks["Command"][-1]


def test_the_role_that_deploys_may_run_its_tasks_and_pass_their_roles(account: Account) -> None:
    workflow = (ROOT / ".github" / "workflows" / "deploy.yml").read_text()
    tasks = re.findall(r'run-task\.sh "\$INSTALLATION-(\w+)"', workflow)
    assert set(tasks) == {"migrate", "check"}
    policy = json.loads((AWS / "policies" / "deploy.json").read_text())["Statement"]
    roles = {account.arn(role): f"{role.stack}-{role.name}-0123456789AB" for role in account.roles}
    for name in tasks:
        family = f"arn:aws:ecs:REGION:ACCOUNT:task-definition/loginpipe-{name}:7"
        assert allowed(policy, "", "ecs:RunTask", family, None), name
        (task,) = [t for t in account.of("AWS::ECS::TaskDefinition") if t.properties["Family"] == f"loginpipe-{name}"]
        for role in ("TaskRoleArn", "ExecutionRoleArn"):
            # CloudFormation makes the name of a role from the names of its stack and of the resource.
            arn = f"arn:aws:iam::ACCOUNT:role/{roles[task.properties[role]]}"
            assert allowed(policy, "", "iam:PassRole", arn, None), arn


@pytest.mark.parametrize("part", ["daemon", "webserver"])
def test_what_does_not_load_the_code_holds_neither_settings_nor_the_logins_of_the_warehouse(
    account: Account, part: str
) -> None:
    container = containers(account)[part]
    assert not PIPELINE_SETTINGS & set(environment(container))
    assert [secret["Name"] for secret in container["Secrets"]] == ["DAGSTER_PASSWORD"]


def test_every_variable_of_dagster_yaml_is_set_where_it_is_read(account: Account) -> None:
    text = (AWS / "dagster.yaml").read_text()
    read = set(re.findall(r"^\s+env: (\w+)$", text, re.MULTILINE))
    launching = {"LOGINPIPE_RUN_TASK_DEFINITION"}
    assert launching < read
    for part, container in containers(account).items():
        if part not in ONE_OFF | COUNTING:
            starts_runs = part in {"daemon", "webserver"}
            assert read - (set() if starts_runs else launching) <= set(environment(container)), part


def test_services_use_the_instance_and_workspace_that_the_dockerfile_puts_there(account: Account) -> None:
    assert "COPY dagster.yaml workspace.yaml /opt/dagster/aws/" in (AWS / "Dockerfile").read_text()
    assert "COPY rds-ca.pem /etc/ssl/certs/rds-ca.pem" in (AWS / "Dockerfile").read_text()
    for part, container in containers(account).items():
        homes = environment(container).get("DAGSTER_HOME")
        assert homes == (None if part in {"prepare", "migrate", *COUNTING} else "/opt/dagster/aws")
        if "-w" in container["Command"]:
            assert "/opt/dagster/aws/workspace.yaml" in container["Command"]


def test_the_instance_is_the_projects_but_for_launcher_logs_and_the_time_to_start() -> None:
    ours, project = (yaml.safe_load(path.read_text()) for path in (AWS / "dagster.yaml", ROOT / "dagster.yaml"))
    assert set(ours) - set(project) == {"run_launcher", "compute_logs"}
    assert set(project) <= set(ours)
    different = {name for name in project if ours[name] != project[name]}
    assert different == {"run_monitoring"}
    assert {**ours["run_monitoring"], "start_timeout_seconds": 180} == project["run_monitoring"]


def test_dagster_finds_the_code_server_by_the_name_that_the_vpc_knows(account: Account) -> None:
    (location,) = yaml.safe_load((AWS / "workspace.yaml").read_text())["load_from"]
    namespace = account.of("AWS::ServiceDiscovery::PrivateDnsNamespace")[0].properties["Name"]
    name = account.of("AWS::ServiceDiscovery::Service")[0].properties["Name"]
    assert location["grpc_server"]["host"] == {"env": "LOGINPIPE_CODE_SERVER_HOST"}
    for part in ("daemon", "webserver"):
        assert environment(containers(account)[part])["LOGINPIPE_CODE_SERVER_HOST"] == f"{name}.{namespace}"
    port = containers(account)["codeserver"]["PortMappings"][0]["ContainerPort"]
    assert location["grpc_server"]["port"] == port
    assert location["grpc_server"]["location_name"] == "loginpipe"


def test_passwords_come_by_reference_and_stand_in_no_variable_and_no_url(account: Account) -> None:
    for container in containers(account).values():
        assert container["Secrets"]
        assert all(secret["ValueFrom"].endswith(":password::") for secret in container["Secrets"])
        for name, value in environment(container).items():
            assert not re.search(r"PASSWORD|SECRET", name)
            if value.startswith("postgresql"):
                login = value.split("://")[1].split("@")[0]
                assert re.fullmatch(r"[a-z_]+", login)
                assert "?sslmode=verify-full&sslrootcert=/etc/ssl/certs/rds-ca.pem" in value


def test_no_template_holds_a_secret_value(bodies: dict[str, dict[str, Any]], account: Account) -> None:
    for secret in account.of("AWS::SecretsManager::Secret"):
        assert "SecretString" not in secret.properties
        assert secret.properties["GenerateSecretString"]["GenerateStringKey"] == "password"
        assert secret.properties["GenerateSecretString"]["PasswordLength"] == 40
    listener = account.of("AWS::ElasticLoadBalancingV2::Listener")[0]
    client_secret = listener.properties["DefaultActions"][0]["AuthenticateOidcConfig"]["ClientSecret"]
    assert re.fullmatch(r"\{\{resolve:secretsmanager:arn:.*\}\}", client_secret)
    for body in bodies.values():
        assert all("NoEcho" not in parameter for parameter in body.get("Parameters", {}).values())


def test_the_ui_is_behind_an_internal_balancer_that_signs_people_in_before_it_forwards(account: Account) -> None:
    (balancer,) = account.of("AWS::ElasticLoadBalancingV2::LoadBalancer")
    assert balancer.properties["Scheme"] == "internal"
    attributes = {each["Key"]: each["Value"] for each in balancer.properties["LoadBalancerAttributes"]}
    assert attributes["deletion_protection.enabled"] == "true"
    assert attributes["access_logs.s3.enabled"] == "true"
    (listener,) = account.of("AWS::ElasticLoadBalancingV2::Listener")
    assert listener.properties["Protocol"] == "HTTPS"
    first, second = sorted(listener.properties["DefaultActions"], key=lambda action: action["Order"])
    assert first["Type"] == "authenticate-oidc"
    assert first["AuthenticateOidcConfig"]["OnUnauthenticatedRequest"] == "authenticate"
    assert second["Type"] == "forward"


def test_people_reach_the_balancer_alone_and_from_the_named_networks(account: Account) -> None:
    (rule,) = [r for r in account.of("AWS::EC2::SecurityGroupIngress") if r.stack == "LoginpipeServices"]
    assert rule.properties["CidrIp"] == "10.8.0.0/16"
    assert rule.properties["GroupId"].startswith("NetworkBalancer")


def test_there_is_never_a_second_daemon(services: Template) -> None:
    services.has_resource_properties(
        "AWS::ECS::Service",
        {
            "DesiredCount": 1,
            "TaskDefinition": Match.object_like({"Ref": Match.string_like_regexp("ServicesDaemon")}),
            "DeploymentConfiguration": Match.object_like({"MinimumHealthyPercent": 0, "MaximumPercent": 100}),
        },
    )


def test_all_tasks_fit_into_the_vcpu_of_a_new_account_while_services_are_replaced(account: Account) -> None:
    cpu = {task.name: int(task.properties["Cpu"]) for task in account.of("AWS::ECS::TaskDefinition")}
    lasting, more = 0, {}
    for service in account.of("AWS::ECS::Service"):
        of_task = cpu[service.properties["TaskDefinition"].removeprefix("arn:")]
        count, most = (
            service.properties["DesiredCount"],
            service.properties["DeploymentConfiguration"]["MaximumPercent"],
        )
        lasting += of_task * count
        more[service.name] = of_task * (count * most // 100 - count)
    first = sum(extra for name, extra in more.items() if "CodeServer" in name)
    replaced = max(first, sum(more.values()) - first, *(cpu[name] for name in cpu if name.startswith("Setup")))
    assert peak_cpu(runs=6 + 2, run_cpu=2048, further=1) == lasting + replaced + 2 * (6 + 2) * 2048
    # The values that an environment begins with.
    app = cdk.App(context={"environment": "production"})
    read_environment(app.node)
    assert vcpus(app) == 5.75
    defaults = re.search(r"^#LOGINPIPE_MAX_RUNS=(\d+)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert defaults is not None
    assert int(defaults[1]) == DEFAULT_MAX_RUNS
    assert f"with the values as they are, {vcpus(app):g} are taken" in (AWS / "README.md").read_text()


def test_a_version_that_does_not_come_up_is_taken_back(services: Template) -> None:
    services.all_resources_properties(
        "AWS::ECS::Service",
        {
            "DeploymentConfiguration": Match.object_like(
                {"DeploymentCircuitBreaker": {"Enable": True, "Rollback": True}}
            ),
            "EnableExecuteCommand": False,
        },
    )


def test_every_lasting_part_has_a_health_check_and_runs_get_the_time_to_return_messages(account: Account) -> None:
    for part, container in containers(account).items():
        assert ("HealthCheck" in container) is (part in {"codeserver", "codeserver-partners", "daemon", "webserver"})
        assert container["StopTimeout"] == 90
