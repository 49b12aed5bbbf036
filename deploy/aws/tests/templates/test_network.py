"""Nothing has a way in from the internet, and tasks and database have none out."""

from ipaddress import ip_network
from typing import Any

from aws_cdk.assertions import Template

from iam import Account, Resource


def rules(account: Account, direction: str) -> list[dict[str, Any]]:
    """Every rule of every security group, wherever it is written."""
    beside = [
        {**r.properties, "group": r.properties["GroupId"]} for r in account.of(f"AWS::EC2::SecurityGroup{direction}")
    ]
    inside = [
        {**rule, "group": f"{group.name}.GroupId"}
        for group in account.of("AWS::EC2::SecurityGroup")
        for rule in group.properties.get(f"SecurityGroup{direction}", [])
    ]
    return [*beside, *inside]


def test_whoever_comes_in_comes_from_one_of_our_groups_or_a_private_network(account: Account) -> None:
    for rule in rules(account, "Ingress"):
        assert "CidrIpv6" not in rule
        if "CidrIp" in rule:
            assert ip_network(rule["CidrIp"]).is_private, rule
        else:
            assert rule["SourceSecurityGroupId"].startswith("Network"), rule


def test_postgres_is_reached_by_tasks_web_server_and_the_named_networks(account: Account) -> None:
    into = {
        rule.get("CidrIp") or rule["SourceSecurityGroupId"].removesuffix(".GroupId")[:-8]
        for rule in rules(account, "Ingress")
        if rule["group"].startswith("NetworkDatabase")
    }
    assert into == {"NetworkTasks", "NetworkWebserver", "10.8.0.0/16"}


def test_what_goes_unencrypted_goes_to_two_ports_from_where_the_readme_says(account: Account) -> None:
    into: dict[int, set[str]] = {}
    for rule in rules(account, "Ingress"):
        assert rule["FromPort"] == rule["ToPort"]
        source = rule.get("CidrIp") or rule["SourceSecurityGroupId"].removesuffix(".GroupId")[:-8]
        into.setdefault(rule["FromPort"], set()).add(source)
    assert set(into) == {443, 5432, 3000, 4000}
    # These two: HTTP to the web servers, gRPC to the code server.
    assert into[3000] == {"NetworkBalancer"}
    assert into[4000] == {"NetworkWebserver", "NetworkTasks"}


def test_no_subnet_gives_public_addresses_and_those_of_tasks_and_database_have_no_route_out(account: Account) -> None:
    routes = account.of("AWS::EC2::Route")
    tables = {
        a.properties["SubnetId"]: a.properties["RouteTableId"]
        for a in account.of("AWS::EC2::SubnetRouteTableAssociation")
    }
    for subnet in account.of("AWS::EC2::Subnet"):
        assert subnet.properties["MapPublicIpOnLaunch"] is False
        out = [route for route in routes if route.properties["RouteTableId"] == tables[subnet.name]]
        if "Vpctasks" in subnet.name or "Vpcdatabase" in subnet.name:
            assert out == [], subnet.name
        elif "Vpcbalancer" in subnet.name:
            assert "NatGatewayId" in out[0].properties


def test_tasks_and_database_are_in_their_own_subnets(account: Account) -> None:
    for service in account.of("AWS::ECS::Service"):
        network = service.properties["NetworkConfiguration"]["AwsvpcConfiguration"]
        assert network["AssignPublicIp"] == "DISABLED"
        assert all("Vpctasks" in subnet for subnet in network["Subnets"])
    for group in account.of("AWS::RDS::DBSubnetGroup"):
        assert all("Vpcdatabase" in subnet for subnet in group.properties["SubnetIds"])


def test_every_service_that_tasks_call_has_an_endpoint(account: Account) -> None:
    services = {
        str(endpoint.properties["ServiceName"]).removeprefix("com.amazonaws.").split(".", 1)[-1]
        for endpoint in account.of("AWS::EC2::VPCEndpoint")
    }
    assert services == {"sqs", "kms", "secretsmanager", "ecr.api", "ecr.dkr", "logs", "sns", "ecs", "ec2", "s3"}


def test_through_the_gateway_of_s3_there_is_a_way_to_our_buckets_and_the_layers_of_images_only(
    account: Account,
) -> None:
    (gateway,) = [e for e in account.of("AWS::EC2::VPCEndpoint") if "PolicyDocument" in e.properties]
    reached = {arn for s in gateway.properties["PolicyDocument"]["Statement"] for arn in listed(s["Resource"])}
    buckets = {account.arn(b) for b in buckets_of(account)}
    layers = "arn:aws:s3:::prod-eu-central-1-starport-layer-bucket/*"
    assert reached == buckets | {f"{arn}/*" for arn in buckets} | {layers}


def test_what_goes_over_the_network_is_logged(data: Template) -> None:
    data.has_resource_properties("AWS::EC2::FlowLog", {"TrafficType": "ALL", "LogDestinationType": "cloud-watch-logs"})


def buckets_of(account: Account) -> list[Resource]:
    return [b for b in account.of("AWS::S3::Bucket") if not b.name.startswith("StorageAccessLogs")]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
