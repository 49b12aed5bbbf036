"""The figures of docs/scaling.md that come from the templates: what a month costs, and what checkpoints write."""

import json
import math
import re

import aws_cdk as cdk

from conftest import AWS
from iam import Account, Resource
from loginpipe_aws.context import size_of_runs
from loginpipe_aws.database import _max_wal_mib

SCALING = (AWS.parents[1] / "docs" / "scaling.md").read_text()
PRODUCTION = json.loads((AWS / "environments" / "production.json").read_text())
STORAGE = "storage for 30 days without the vault, a third free"
HOURS = 730
SECONDS = HOURS * 3600
RATES = (10, 1_000, 10_000)
PAGE = 8192
SMALLEST = 20
"""GB that RDS has at least."""
# Dollars, as the page takes them: list prices of us-east-1 from 2025. The database's are those of two zones.
VCPU_HOUR, GIB_HOUR, M7G_LARGE, R7G_XLARGE, GB_OF_STORAGE = 0.04048, 0.004445, 0.337, 0.956, 0.23
MILLION_CALLS, ENDPOINT_HOUR, GB_THROUGH_ENDPOINT, NAT_AND_BALANCER = 0.4, 0.01, 0.01, 0.0725
METRIC, KEY, SECRET, ALARM = 0.3, 1.0, 0.4, 0.1


def rows(heading: str) -> dict[str, list[str]]:
    """The first table below a heading: first cell → the others."""
    table = SCALING.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines}


def number(text: str) -> float:
    return float(text.strip("* ").replace(",", ""))


def rounded(amount: float) -> float:
    """As the page shows an amount: whole numbers, and tenths below one."""
    return round(amount, 1 if amount < 1 else 0)


def of_one_queue(account: Account, kind: str) -> list[Resource]:
    """Resources without those of the example's further queue."""
    return [resource for resource in account.of(kind) if "Partners" not in resource.name]


def services(account: Account, *, further: bool) -> tuple[float, float]:
    """vCPU and GiB of all services: of those of the first queue, or of those that a further queue adds."""
    tasks = {r.name: r.properties for r in account.of("AWS::ECS::TaskDefinition")}
    found = [
        (tasks[service.properties["TaskDefinition"].removeprefix("arn:")], service.properties["DesiredCount"])
        for service in account.of("AWS::ECS::Service")
        if ("Partners" in service.name) is further
    ]
    cpu, memory = (sum(int(task[of]) * count for task, count in found) / 1024 for of in ("Cpu", "Memory"))
    return cpu, memory


def fargate(cpu: float, gib: float) -> float:
    return HOURS * (cpu * VCPU_HOUR + gib * GIB_HOUR)


def fargate_of_a_run() -> float:
    cpu, mib = size_of_runs(cdk.App().node)
    return fargate(cpu / 1024, mib / 1024)


def test_the_costs_are_those_of_the_stacks_and_add_up(account: Account) -> None:
    run = fargate_of_a_run()
    lasting = fargate(*services(account, further=False))
    # The sensor's three calls in five seconds; a receive a message, and two deletes a second; a fifth a message.
    calls = [each * SECONDS / 1e6 * MILLION_CALLS for each in (0.6, 0.6 + 10 + 2, 0.6 + 1_000 / 5)]
    zones = 2
    interfaces = [r for r in account.of("AWS::EC2::VPCEndpoint") if r.properties["VpcEndpointType"] == "Interface"]
    endpoints = HOURS * zones * len(interfaces) * ENDPOINT_HOUR
    # The example has a second version of the token key; the client's secret of the sign-in is not the stacks'.
    keys, secrets = len(account.of("AWS::KMS::Key")) - 1, len(account.of("AWS::SecretsManager::Secret")) + 1
    others = 90 * METRIC + keys * KEY + secrets * SECRET + len(of_one_queue(account, "AWS::CloudWatch::Alarm")) * ALARM
    first_gib = PRODUCTION["database_storage_gib"]
    later_gib = 1_000 * number(rows("The database")[STORAGE][1].removesuffix(" TB"))
    databases = ((M7G_LARGE, first_gib), (R7G_XLARGE, later_gib))
    small, large = (HOURS * hour + gib * GB_OF_STORAGE for hour, gib in databases)
    expected = {
        "services and runs on Fargate": [lasting, lasting + run, lasting + run],
        "database and its storage, in two zones": [small, small, large],
        "calls to SQS": calls,
        # A message is 1 kB.
        "interface endpoints, NAT, load balancer": [
            endpoints + HOURS * NAT_AND_BALANCER + rate * SECONDS / 1e6 * GB_THROUGH_ENDPOINT for rate in (0, 10, 1_000)
        ],
        "metrics, keys, secrets, alarms, about": [others] * 3,
    }
    shown = {name: [number(cell) for cell in cells] for name, cells in rows("What it costs on AWS").items() if name}
    together = shown.pop("**together**")
    assert shown == {name: [round(each) for each in amounts] for name, amounts in expected.items()}
    assert together == [sum(column) for column in zip(*shown.values(), strict=True)]


def test_senders_pay_for_a_call_a_message() -> None:
    ((few, many),) = re.findall(r"\*\*Senders\*\* pay \$([\d,]+) at 10 a second and \$([\d,]+) at 1,000", SCALING)
    assert [number(few), number(many)] == [round(rate * SECONDS / 1e6 * MILLION_CALLS) for rate in (10, 1_000)]


def test_storage_and_indexes_are_those_of_the_rows() -> None:
    table, message = rows("The database"), rows("What a message costs")
    login = number(message["`user_logins`"][0].removesuffix(" bytes"))
    ledger = number(message["ledger, kept 29 days"][1].removesuffix(" bytes"))
    settings = dict(
        re.findall(r"^#(LOGINPIPE_\w+)=(\S+)$", (AWS.parents[1] / ".env.example").read_text(), re.MULTILINE)
    )
    for place, rate in enumerate(RATES):
        amounts = {name: cells[place].split() for name, cells in table.items()}
        size = {"GB": 1, "TB": 1_000}
        needed = max(SMALLEST, 86_400 * rate * (30 * login + 29 * ledger) * 1.5 / 1e9)
        amount, unit = amounts[STORAGE]
        assert math.isclose(number(amount) * size[unit], needed, rel_tol=0.1), rate
        # The ledger's day, 60 bytes a message; the vault, 80 bytes a value.
        indexes = 86_400 * rate * (60 + 2 * 80) / 1e9
        shown = number(amounts["indexes in use"][0])
        assert math.isclose(shown, indexes, rel_tol=0.1), rate
        assert shown <= 0.75 * number(amounts["`database_class`, memory"][1]), rate
        # A run takes 120 kB. Beyond 1,000 a second, there are three at once.
        runs = 86_400 / int(settings["LOGINPIPE_RUN_SECONDS"]) * (3 if rate > 1_000 else 1)
        stored = runs * int(settings["LOGINPIPE_KEEP_RUNS_DAYS"]) * 120_000 / 1e9
        assert number(amounts["Dagster's storage, GB"][0]) == math.ceil(stored * 10) / 10, rate
    assert PRODUCTION["database_class"] in table["`database_class`, memory"][0]


def test_a_further_queue_costs_what_the_page_says(account: Account) -> None:
    ((lasting, run),) = re.findall(r"\*\*A further queue\*\* adds \$(\d+), and \$(\d+) for a run", SCALING)
    alarms = len(account.of("AWS::CloudWatch::Alarm")) - len(of_one_queue(account, "AWS::CloudWatch::Alarm"))
    calls = 0.6 * SECONDS / 1e6 * MILLION_CALLS
    assert int(lasting) == round(fargate(*services(account, further=True)) + calls + alarms * ALARM)
    assert int(run) == round(fargate_of_a_run())


def test_the_whole_pages_after_checkpoints_are_those_of_the_ledgers_index(account: Account) -> None:
    parameters = account.of("AWS::RDS::DBParameterGroup")[0].properties["Parameters"]
    seconds = int(parameters["checkpoint_timeout"])
    table = rows("The database")
    rows_of_new_values = 1_200
    for place, rate in enumerate(RATES):
        pages = 60 * 86_400 * rate / PAGE
        written = pages * (1 - math.exp(-rate * seconds / pages)) * PAGE
        shown = number(table["whole pages after checkpoints, in log and tables"][place].removesuffix(" MB/s"))
        assert shown == rounded(2 * written / seconds / 1e6), rate
        # A checkpoint begins when the log since the last one is 1/1.9 of max_wal_size.
        needed = 1.9 * (written + rows_of_new_values * rate * seconds) / 1e9
        shown = number(table["`max_wal_size` that a checkpoint every 15 minutes takes"][place].removesuffix(" GB"))
        assert shown == rounded(needed), rate
    most = re.search(r"to a tenth of the storage, (\d+) GiB at most", SCALING)
    assert most is not None
    assert _max_wal_mib(65_536) == int(most[1]) * 1024
