"""Define three stacks: the data, which stays; the one-off tasks; and the services, which can be replaced."""

from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from constructs import Construct

from loginpipe_aws import function
from loginpipe_aws.balancer import Balancer
from loginpipe_aws.containers import DAGSTER_HOME, database_url
from loginpipe_aws.context import (
    ContextError,
    Foundation,
    Release,
    Web,
    foundation,
    installation,
    release,
    web,
)
from loginpipe_aws.database import Database
from loginpipe_aws.exceptions import note_exceptions
from loginpipe_aws.key_watch import KeyWatch
from loginpipe_aws.keys import DataKeys, PersonalDataKeys
from loginpipe_aws.network import Network
from loginpipe_aws.observability import Observability
from loginpipe_aws.queue import VISIBILITY_SECONDS, LoginQueue
from loginpipe_aws.roles import Roles
from loginpipe_aws.services import Services
from loginpipe_aws.setup import Setup
from loginpipe_aws.storage import ARCHIVE_PREFIX, Storage
from loginpipe_aws.telemetry import Telemetry

DATA: Final = "LoginpipeData"
SETUP: Final = "LoginpipeSetup"
SERVICES: Final = "LoginpipeServices"


def add_stacks(app: cdk.App) -> list[str]:
    """Add the stacks whose values are complete; return one line for each other stack, with what it lacks.

    Raises:
        ContextError: a value of the data stack is missing or invalid.
    """
    settings = foundation(app.node)
    cdk.Tags.of(app).add("application", settings.installation)
    data = DataStack(app, settings)
    try:
        released = release(app.node)
    except ContextError as error:
        return [f"{SETUP} and {SERVICES} are left out: {error}"]
    setup = SetupStack(app, settings, data, released)
    try:
        way_in = web(app.node)
    except ContextError as error:
        return [f"{SERVICES} is left out: {error}"]
    ServicesStack(app, settings, data=data, setup=setup, released=released, way_in=way_in)
    return []


def _stack_name(scope: Construct, construct_id: str) -> str:
    """Return the name of a stack in the account: LoginpipeData, or AcmeData for the installation acme."""
    return construct_id.replace("Loginpipe", installation(scope.node).capitalize())


class DataStack(cdk.Stack):
    """Network, keys, queues, database, buckets, images, secrets, log groups and roles: everything that must be kept."""

    def __init__(self, scope: Construct, settings: Foundation) -> None:
        super().__init__(
            scope,
            DATA,
            stack_name=_stack_name(scope, DATA),
            env=cdk.Environment(region=settings.region),
            description="loginpipe: what must not get lost",
            termination_protection=True,
        )
        self.keys = DataKeys(self, "Keys")
        self.telemetry = Telemetry(self, "Telemetry", key=self.keys.telemetry, alert_email=settings.alert_email)
        self.storage = Storage(self, "Storage", key=self.keys.data, image_reader_arns=settings.image_reader_arns)
        by_function = settings.consumer in {"lambda", "both"}
        visibility = function.VISIBILITY_SECONDS if by_function else VISIBILITY_SECONDS
        self._further = {queue.name: queue for queue in settings.queues}
        # The login queue is the first, and has no name here.
        self.queues = {
            name: LoginQueue(
                self,
                f"Queue{name.title()}",
                key=self.keys.queue,
                sender_arns=senders,
                visibility_seconds=visibility,
                name=name,
            )
            for name, senders in {
                "": settings.sender_arns,
                **{name: queue.sender_arns for name, queue in self._further.items()},
            }.items()
        }
        self.network = Network(
            self,
            "Network",
            cidr=settings.vpc_cidr,
            flow_logs=self.telemetry.flows,
            database_networks=settings.database_networks,
            buckets=[self.storage.archive, self.storage.compute_logs],
        )
        self.database = Database(
            self,
            "Database",
            settings=settings,
            vpc=self.network.vpc,
            group=self.network.database,
            key=self.keys.data,
            log_groups=self.telemetry.database,
        )
        self.roles = Roles(self, "Roles", people=settings.people)
        self.function = function.FunctionData(self, "Function", key=self.keys.telemetry) if by_function else None
        self.personal = PersonalDataKeys(
            self,
            "PersonalData",
            versions=settings.token_key_versions,
            pipeline=[self.roles.run, *([self.function.role] if self.function else [])],
            custodian=self.roles.custodian,
            auditor=self.roles.auditor,
            administrator=self.roles.key_administrator,
            second_factor=self.roles.second_factor,
        )
        resources = self.roles.grant(
            queues=list(self.queues.values()),
            keys=self.keys,
            personal=self.personal,
            archive=self.storage.archive,
            compute_logs=self.storage.compute_logs,
            topic=self.telemetry.topic,
            database=self.database.instance,
        )
        if self.function:
            self.function.grant(resources, login=self.database.secrets["pipeline"], key=self.keys.data)
        KeyWatch(
            self,
            "KeyWatch",
            topic_arn=self.telemetry.topic.topic_arn,
            tokens=self.personal.tokens,
            seal=self.personal.seal,
        )
        for name, value in {
            **{f"QueueUrl{name.title()}": queue.logins.queue_url for name, queue in self.queues.items()},
            "Images": self.storage.images.repository_uri,
            "DatabaseEndpoint": self.database.instance.db_instance_endpoint_address,
            "SealKey": self.personal.seal.key_arn,
            "TokenKeys": self.personal.token_keys_uri,
            "ArchiveBucket": self.storage.archive.bucket_name,
            "TaskSubnets": ",".join(self.network.vpc.select_subnets(subnet_group_name="tasks").subnet_ids),
            "TaskGroup": self.network.tasks.security_group_id,
        }.items():
            cdk.CfnOutput(self, name, value=value)

        # Created after resources whose names may be taken, because a rollback cannot delete a protected instance. The
        # policies of the roles name the instance and are created after it.
        self.database.instance.node.add_dependency(*self.queues.values(), self.personal, self.storage)
        note_exceptions(self)

    def storage_environment(self) -> dict[str, str]:
        """Return the variables for Dagster's storage."""
        url = database_url(self.database.instance, "dagster", "dagster", scheme="postgresql+psycopg2")
        return {"DAGSTER_POSTGRES_URL": url}

    def dagster_environment(self) -> dict[str, str]:
        """Return the variables of every Dagster process: its storage, and what its instance on ECS reads."""
        return {
            **self.storage_environment(),
            "DAGSTER_HOME": DAGSTER_HOME,
            "AWS_DEFAULT_REGION": self.region,
            "LOGINPIPE_COMPUTE_LOGS_BUCKET": self.storage.compute_logs.bucket_name,
        }

    def counting_environment(self, released: Release, queue: str = "") -> dict[str, str]:
        """Return the environment of tasks that query only the queue and the database and have no key."""
        further = self._further.get(queue)
        own = {"LOGINPIPE_ASSET_PREFIX": queue} if further else {}
        if further and further.max_runs:
            own["LOGINPIPE_MAX_RUNS"] = str(further.max_runs)
        return {
            **released.settings,
            **own,
            "AWS_DEFAULT_REGION": self.region,
            "LOGINPIPE_ENV": "production",
            "LOGINPIPE_QUEUE": self.queues[queue].logins.queue_url,
            "LOGINPIPE_DATABASE_URL": database_url(self.database.instance, "pipeline", "loginpipe"),
        }

    def pipeline_environment(self, released: Release, queue: str = "") -> dict[str, str]:
        """Return the environment of tasks that load the pipeline's code: the settings, and Dagster's variables."""
        return {
            **self.dagster_environment(),
            **self.counting_environment(released, queue),
            "LOGINPIPE_TOKEN_KEYS": self.personal.token_keys_uri,
            "LOGINPIPE_SEAL_KEY": self.personal.seal_key_uri,
            "LOGINPIPE_SEAL_KEY_FINGERPRINT": released.seal_key_fingerprint,
            "LOGINPIPE_ARCHIVE_URL": f"s3://{self.storage.archive.bucket_name}/{ARCHIVE_PREFIX}",
            "LOGINPIPE_ALERT_SNS_TOPIC": self.telemetry.topic.topic_arn,
        }


class SetupStack(cdk.Stack):
    """The cluster and the one-off tasks of a release, deployed and run before its services."""

    def __init__(self, scope: Construct, settings: Foundation, data: DataStack, released: Release) -> None:
        super().__init__(
            scope,
            SETUP,
            stack_name=_stack_name(scope, SETUP),
            env=cdk.Environment(region=settings.region),
            description="loginpipe: what is run once",
        )
        self.setup = Setup(
            self,
            "Setup",
            vpc=data.network.vpc,
            roles=data.roles,
            images=data.storage.images,
            image_tag=released.image_tag,
            instance=data.database.instance,
            administrator=data.database.administrator,
            logins=data.database.secrets,
            key=data.keys.data,
            environment={**data.storage_environment(), **released.settings, "LOGINPIPE_ENV": "production"},
            counting={queue: data.counting_environment(released, queue) for queue in data.queues},
            pipeline={queue: data.pipeline_environment(released, queue) for queue in data.queues},
            log_group=data.telemetry.parts["setup"],
        )
        # This policy belongs to this stack, its roles to another, because the setting is part of a release.
        if salt := released.settings.get("LOGINPIPE_COMPAT_SALT"):
            reads = iam.PolicyStatement(
                sid="ReadTheSalt",
                actions=["secretsmanager:GetSecretValue"],
                resources=[salt.removeprefix("secretsmanager:")],
            )
            masking = [data.roles.run, *([data.function.role] if data.function else [])]
            iam.Policy(self, "ReadsTheSalt", roles=masking, statements=[reads])


class ServicesStack(cdk.Stack):
    """The services, access to them, and their monitoring. It holds no data and can be deleted and deployed again."""

    def __init__(
        self,
        scope: Construct,
        settings: Foundation,
        *,
        data: DataStack,
        setup: SetupStack,
        released: Release,
        way_in: Web,
    ) -> None:
        super().__init__(
            scope,
            SERVICES,
            stack_name=_stack_name(scope, SERVICES),
            env=cdk.Environment(region=settings.region),
            description="loginpipe: what runs",
        )
        services = Services(
            self,
            "Services",
            cluster=setup.setup.cluster,
            network=data.network,
            roles=data.roles,
            images=data.storage.images,
            released=released,
            logins=data.database.secrets,
            key=data.keys.data,
            telemetry=data.telemetry,
            dagster=data.dagster_environment(),
            counting={queue: data.counting_environment(released, queue) for queue in data.queues},
            pipeline={queue: data.pipeline_environment(released, queue) for queue in data.queues},
        )
        balancer = Balancer(
            self,
            "Web",
            web=way_in,
            network=data.network,
            webserver=services.webserver,
            access_logs=data.storage.access_logs,
        )
        Observability(
            self,
            "Observability",
            topic_arn=data.telemetry.topic.topic_arn,
            queues=data.queues,
            instance=data.database.instance,
            storage_gib=settings.database_storage_gib,
            connections=settings.database_connections,
            cluster=setup.setup.cluster,
            services=services.services,
            target=balancer.target,
            runs=list(services.runs.values()),
        )
        if data.function:
            function.LoginFunction(
                self,
                "Function",
                data=data.function,
                network=data.network,
                images=data.storage.images,
                image_tag=released.image_tag,
                queues={queue: each.logins for queue, each in data.queues.items()},
                instance=data.database.instance,
                connections=settings.database_connections,
                login=data.database.secrets["pipeline"],
                settings=data.pipeline_environment(released),
                topic_arn=data.telemetry.topic.topic_arn,
            )
            note_exceptions(self, function.EXCEPTIONS)
        cdk.CfnOutput(self, "Ui", value=f"https://{way_in.domain}")
        cdk.CfnOutput(self, "PointTheNameAt", value=balancer.balancer.load_balancer_dns_name)
