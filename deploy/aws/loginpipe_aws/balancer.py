"""Give access to the UI, which has no sign-in, through an internal load balancer with OpenID Connect."""

import aws_cdk as cdk
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_s3 as s3
from constructs import Construct

from loginpipe_aws.context import Web
from loginpipe_aws.network import BALANCER, WEB_PORT, Network, as_it_is


class Balancer(Construct):
    """An internal load balancer, HTTPS only. It redirects users without a session to the identity provider."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        web: Web,
        network: Network,
        webserver: ecs.FargateService,
        access_logs: s3.IBucket,
    ) -> None:
        super().__init__(scope, construct_id)
        # These rules belong to this stack, their groups to another.
        for number, cidr in enumerate(web.networks):
            ec2.CfnSecurityGroupIngress(
                self,
                f"People{number}",
                group_id=network.balancer.security_group_id,
                ip_protocol="tcp",
                from_port=443,
                to_port=443,
                cidr_ip=cidr,
                description="people who open the UI",
            )
        self.balancer = elb.ApplicationLoadBalancer(
            self,
            "Balancer",
            vpc=network.vpc,
            vpc_subnets=BALANCER,
            internet_facing=False,
            security_group=as_it_is(self, "Group", network.balancer),
            deletion_protection=True,
            drop_invalid_header_fields=True,
            desync_mitigation_mode=elb.DesyncMitigationMode.STRICTEST,
        )
        self.balancer.log_access_logs(access_logs, "ui")
        self.target = elb.ApplicationTargetGroup(
            self,
            "Webservers",
            vpc=network.vpc,
            protocol=elb.ApplicationProtocol.HTTP,
            port=WEB_PORT,
            target_type=elb.TargetType.IP,
            targets=[webserver],
            health_check=elb.HealthCheck(path="/server_info", healthy_http_codes="200"),
            deregistration_delay=cdk.Duration.seconds(30),
        )
        oidc = web.oidc
        self.balancer.add_listener(
            "Https",
            port=443,
            protocol=elb.ApplicationProtocol.HTTPS,
            open=False,
            ssl_policy=elb.SslPolicy.TLS13_RES,
            certificates=[acm.Certificate.from_certificate_arn(self, "Certificate", web.certificate_arn)],
            default_action=elb.ListenerAction.authenticate_oidc(
                issuer=oidc.issuer,
                authorization_endpoint=oidc.authorization_endpoint,
                token_endpoint=oidc.token_endpoint,
                user_info_endpoint=oidc.user_info_endpoint,
                client_id=oidc.client_id,
                client_secret=cdk.SecretValue.secrets_manager(oidc.client_secret_arn),
                scope="openid",
                session_timeout=cdk.Duration.hours(8),
                on_unauthenticated_request=elb.UnauthenticatedAction.AUTHENTICATE,
                next=elb.ListenerAction.forward([self.target]),
            ),
        )
