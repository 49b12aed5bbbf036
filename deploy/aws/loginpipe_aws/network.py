"""Create the network: tasks and database without internet access, and endpoints for the AWS services that they call.

Only the load balancer has internet access, through NAT, to fetch tokens from the identity provider. Nothing is
reachable from the internet.
"""

from collections.abc import Sequence
from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from constructs import Construct

GRPC_PORT: Final = 4000
WEB_PORT: Final = 3000

_SERVICES: Final = {
    "Sqs": ec2.InterfaceVpcEndpointAwsService.SQS,
    "Kms": ec2.InterfaceVpcEndpointAwsService.KMS,
    "SecretsManager": ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
    "Ecr": ec2.InterfaceVpcEndpointAwsService.ECR,
    "EcrDocker": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    "Sns": ec2.InterfaceVpcEndpointAwsService.SNS,
    # For the run launcher, which starts tasks and looks up the network of its own task.
    "Ecs": ec2.InterfaceVpcEndpointAwsService.ECS,
    "Ec2": ec2.InterfaceVpcEndpointAwsService.EC2,
}
_HTTPS: Final = ec2.Port.tcp(443)
_POSTGRES: Final = ec2.Port.tcp(5432)
_GRPC: Final = ec2.Port.tcp(GRPC_PORT)
_WEB: Final = ec2.Port.tcp(WEB_PORT)

BALANCER: Final = ec2.SubnetSelection(subnet_group_name="balancer")
TASKS: Final = ec2.SubnetSelection(subnet_group_name="tasks")
DATABASE: Final = ec2.SubnetSelection(subnet_group_name="database")


class Network(Construct):
    """A VPC in two zones, its endpoints, and a security group for each part."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        cidr: str,
        flow_logs: logs.ILogGroup,
        database_networks: Sequence[str],
        buckets: Sequence[s3.IBucket],
    ) -> None:
        super().__init__(scope, construct_id)
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(cidr),
            max_azs=2,
            nat_gateways=1,
            restrict_default_security_group=False,
            subnet_configuration=[
                _subnets("nat", ec2.SubnetType.PUBLIC, 28, map_public_ip_on_launch=False),
                _subnets("balancer", ec2.SubnetType.PRIVATE_WITH_EGRESS, 26),
                _subnets("tasks", ec2.SubnetType.PRIVATE_ISOLATED, 22),
                _subnets("database", ec2.SubnetType.PRIVATE_ISOLATED, 26),
            ],
            flow_logs={
                "All": ec2.FlowLogOptions(
                    destination=ec2.FlowLogDestination.to_cloud_watch_logs(flow_logs),
                    traffic_type=ec2.FlowLogTrafficType.ALL,
                )
            },
        )
        self.balancer = _group(self, "Balancer", self.vpc, "the load balancer of the UI")
        self.webserver = _group(self, "Webserver", self.vpc, "the UI")
        self.tasks = _group(self, "Tasks", self.vpc, "code server, daemon, runs, one-off tasks")
        self.database = _group(self, "Database", self.vpc, "the database")
        endpoints = _group(self, "Endpoints", self.vpc, "AWS services inside the VPC")

        for part in (self.webserver, self.tasks):
            _let(part, endpoints, _HTTPS, "AWS services")
            _let(part, self.tasks, _GRPC, "the code server")
            _let(part, self.database, _POSTGRES, "the database")
            # The gateway of S3 has addresses, not a group. These subnets have no other route out.
            part.add_egress_rule(ec2.Peer.any_ipv4(), _HTTPS, "S3, by its gateway")
        _let(self.balancer, self.webserver, _WEB, "the UI")
        self.balancer.add_egress_rule(ec2.Peer.any_ipv4(), _HTTPS, "the identity provider, through NAT")
        for network in database_networks:
            self.database.add_ingress_rule(ec2.Peer.ipv4(network), _POSTGRES, "custodians and analysts")

        for name, service in _SERVICES.items():
            self.vpc.add_interface_endpoint(
                name, service=service, subnets=TASKS, security_groups=[endpoints], open=False
            )
        gateway = self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3, subnets=[TASKS])
        for statement in _s3_statements(cdk.Stack.of(self), buckets):
            gateway.add_to_policy(statement)


def as_it_is(scope: Construct, construct_id: str, group: ec2.ISecurityGroup) -> ec2.ISecurityGroup:
    """Return a group to which the CDK adds no rules, because `Network` defines all of them."""
    return ec2.SecurityGroup.from_security_group_id(scope, construct_id, group.security_group_id, mutable=False)


def _s3_statements(stack: cdk.Stack, buckets: Sequence[s3.IBucket]) -> list[iam.PolicyStatement]:
    """Return what the gateway allows: our buckets, and the image layers in the buckets of ECR."""
    ours = [arn for bucket in buckets for arn in (bucket.bucket_arn, bucket.arn_for_objects("*"))]
    layers = f"arn:{stack.partition}:s3:::prod-{stack.region}-starport-layer-bucket/*"
    anyone: Any = [iam.AnyPrincipal()]
    return [
        iam.PolicyStatement(
            sid="OurBuckets",
            principals=anyone,
            actions=["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListBucket"],
            resources=ours,
        ),
        iam.PolicyStatement(sid="LayersOfImages", principals=anyone, actions=["s3:GetObject"], resources=[layers]),
    ]


def _subnets(name: str, kind: ec2.SubnetType, mask: int, **more: Any) -> ec2.SubnetConfiguration:
    return ec2.SubnetConfiguration(name=name, subnet_type=kind, cidr_mask=mask, **more)


def _group(scope: Construct, name: str, vpc: ec2.IVpc, of: str) -> ec2.SecurityGroup:
    return ec2.SecurityGroup(scope, name, vpc=vpc, description=f"loginpipe: {of}", allow_all_outbound=False)


def _let(source: ec2.SecurityGroup, target: ec2.SecurityGroup, port: ec2.Port, to: str) -> None:
    source.add_egress_rule(target, port, to)
    target.add_ingress_rule(source, port, to)
