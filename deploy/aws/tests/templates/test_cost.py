"""The figures of docs/scaling.md that come from the templates: what a month costs, and what checkpoints write."""

import math
import re
from pathlib import Path

from conftest import AWS
from iam import Account, Resource
from loginpipe_aws.services import SIZES

SCALING = (AWS.parents[1] / "docs" / "scaling.md").read_text()
HOURS = 730
SECONDS = HOURS * 3600
RATES = (10, 1_000, 10_000)
PAGE = 8192


def rows(heading: str) -> dict[str, list[str]]:
    """The first table below a heading: first cell → the others."""
    table = SCALING.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines}


def number(text: str) -> float:
    return float(text.strip("* ").replace(",", ""))


def test_the_costs_are_quantities_times_prices_and_add_up() -> None:
    costs = rows("What it costs on AWS")
    sums = [0.0, 0.0, 0.0]
    for name, (price, *cells) in costs.items():
        if name.startswith(("in a month", "**together")):
            continue
        for place, cell in enumerate(cells):
            quantity, amount = map(number, cell.split(": "))
            assert round(quantity * number(price)) == amount, name
            sums[place] += amount
    assert [number(cell) for cell in costs["**together**"][1:]] == sums


def of_one_queue(account: Account, kind: str) -> list[Resource]:
    """Resources without those of the example's further queue."""
    return [resource for resource in account.of(kind) if "Partners" not in resource.name]


def test_the_quantities_are_those_of_the_stacks(account: Account) -> None:
    quantities = {name: [number(cell.split(": ")[0]) for cell in cells[1:]]
                  for name, cells in rows("What it costs on AWS").items() if ":" in cells[-1]}  # fmt: skip
    memory = {r.name: int(r.properties["Memory"]) for r in account.of("AWS::ECS::TaskDefinition")}
    lasting_gib = (
        sum(
            memory[service.properties["TaskDefinition"].removeprefix("arn:")] * service.properties["DesiredCount"]
            for service in of_one_queue(account, "AWS::ECS::Service")
        )
        / 1024
    )
    lasting_cpu = sum(size.cpu * size.count for size in SIZES.values()) / 1024
    zones = 2
    interfaces = [r for r in account.of("AWS::EC2::VPCEndpoint") if r.properties["VpcEndpointType"] == "Interface"]
    # The example has a second version of the token key; the client's secret of the sign-in is not the stacks'.
    keys, secrets = len(account.of("AWS::KMS::Key")) - 1, len(account.of("AWS::SecretsManager::Secret")) + 1
    run_cpu, run_gib = 0.5, 2
    expected = {
        "vCPU-hours of services and runs on Fargate": [HOURS * (lasting_cpu + run_cpu * n) for n in (0, 1, 1)],
        "GB-hours of their memory": [HOURS * (lasting_gib + run_gib * n) for n in (0, 1, 1)],
        "hours of interface endpoints": [HOURS * zones * len(interfaces)] * 3,
        "keys in KMS": [keys] * 3,
        "secrets": [secrets] * 3,
        "alarms": [len(of_one_queue(account, "AWS::CloudWatch::Alarm"))] * 3,
    }
    assert {name: quantities[name] for name in expected} == expected
    # The sensor's three calls in five seconds; a receive a message, and two deletes a second; a fifth a message.
    calls = [0.6, 0.6 + 10 + 2, 0.6 + 1_000 / 5]
    assert [round(each * SECONDS / 1e6, 0) for each in calls] == [
        round(each, 0) for each in quantities["million calls to SQS"]
    ]


def test_a_further_queue_costs_what_the_page_says(account: Account) -> None:
    (shown,) = re.findall(
        r"\*\*A further queue\*\* adds ([\d.]+) vCPU and ([\d.]+) GB \(\$(\d+)\), (\w+) alarms.* \(\$(\d+)\); "
        r"at traffic a run \(\$(\d+)\)",
        SCALING,
    )
    prices = {name: number(cells[0]) for name, cells in rows("What it costs on AWS").items() if ":" in cells[-1]}
    cpu, gib, call = (
        prices[name]
        for name in ("vCPU-hours of services and runs on Fargate", "GB-hours of their memory", "million calls to SQS")
    )
    tasks = {r.name: r.properties for r in account.of("AWS::ECS::TaskDefinition")}
    services = [
        tasks[service.properties["TaskDefinition"].removeprefix("arn:")]
        for service in account.of("AWS::ECS::Service")
        if "Partners" in service.name
    ]
    vcpus, memory = (sum(int(task[of]) for task in services) / 1024 for of in ("Cpu", "Memory"))
    alarms = len(account.of("AWS::CloudWatch::Alarm")) - len(of_one_queue(account, "AWS::CloudWatch::Alarm"))
    assert (float(shown[0]), float(shown[1]), shown[3], alarms) == (vcpus, memory, "five", 5)
    assert [int(shown[place]) for place in (2, 4, 5)] == [
        round(HOURS * (vcpus * cpu + memory * gib)),
        round(0.6 * SECONDS / 1e6 * call),
        round(HOURS * (cpu / 2 + 2 * gib)),
    ]


def test_the_whole_pages_after_checkpoints_are_those_of_the_ledgers_index(account: Account) -> None:
    parameters = account.of("AWS::RDS::DBParameterGroup")[0].properties["Parameters"]
    seconds = int(parameters["checkpoint_timeout"])
    table = rows("The database")
    rows_of_new_values = 1_200
    for place, rate in enumerate(RATES):
        pages = 60 * 86_400 * rate / PAGE
        written = pages * (1 - math.exp(-rate * seconds / pages)) * PAGE
        shown = number(table["whole pages after checkpoints, in log and tables"][place].removesuffix(" MB/s"))
        assert math.isclose(2 * written / seconds / 1e6, shown, rel_tol=0.2), rate
        # A checkpoint begins when the log since the last one is 1/1.9 of max_wal_size.
        needed = 1.9 * (written + rows_of_new_values * rate * seconds) / 1e9
        shown = number(table["`max_wal_size` that a checkpoint every 15 minutes takes"][place].removesuffix(" GB"))
        assert math.isclose(needed, shown, rel_tol=0.1), rate
    most = re.search(r"to a tenth of the storage, (\d+) GiB at most", SCALING)
    source = (Path(AWS) / "loginpipe_aws" / "database.py").read_text()
    assert most is not None
    assert f"_MOST_WAL_MIB: Final = {int(most[1]) * 1024:_}" in source
