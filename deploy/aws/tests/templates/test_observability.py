"""Every alarm reaches the topic, and what must be reported has one."""

from aws_cdk.assertions import Match, Template

from iam import Account


def test_every_alarm_and_rule_goes_to_the_topic(account: Account) -> None:
    topic = account.arn(account.of("AWS::SNS::Topic")[0])
    for alarm in account.of("AWS::CloudWatch::Alarm"):
        assert alarm.properties["AlarmActions"] == [topic]
        assert alarm.properties["OKActions"] == [topic]
    for rule in account.of("AWS::Events::Rule"):
        assert [target["Arn"] for target in rule.properties["Targets"]] == [topic]


def test_there_is_an_alarm_for_each_way_to_stand_still(account: Account) -> None:
    alarms = {
        (alarm.properties["MetricName"], alarm.properties["Threshold"])
        for alarm in account.of("AWS::CloudWatch::Alarm")
    }
    assert alarms == {
        ("ApproximateAgeOfOldestMessage", 900),
        ("ApproximateNumberOfMessagesVisible", 0),
        ("ApproximateNumberOfMessagesNotVisible", 114_000),
        ("FreeStorageSpace", 80 * 2**30),
        ("CPUUtilization", 80),
        ("DatabaseConnections", 320),
        ("UnHealthyHostCount", 0),
        ("RunningTaskCount", 1),
    }


def test_a_daemon_of_which_nothing_is_heard_is_a_daemon_that_does_not_run(services: Template) -> None:
    for name in ("Daemon", "CodeServer", "Webserver", "Metrics"):
        services.has_resource_properties(
            "AWS::CloudWatch::Alarm",
            {
                "AlarmDescription": f"loginpipe, no {name} runs",
                "TreatMissingData": "breaching",
                "ComparisonOperator": "LessThanThreshold",
            },
        )


def test_the_dead_letter_alarm_looks_at_the_dead_letter_queue(account: Account) -> None:
    alarm = account.one("AWS::CloudWatch::Alarm", "ObservabilityDeadLetters")
    assert alarm.properties["Dimensions"][0]["Value"].startswith("QueueDeadLetters")


def test_runs_that_die_and_tasks_that_do_not_start_are_told_of(account: Account, services: Template) -> None:
    died = account.one("AWS::Events::Rule", "ObservabilityRunsThatDied").properties["EventPattern"]["detail"]
    runs = [account.one("AWS::ECS::TaskDefinition", f"Services{queue}Run") for queue in ("", "QueuePartners")]
    assert set(died["taskDefinitionArn"]) == {account.arn(run) for run in runs}
    for detail in (
        {"containers": {"exitCode": [{"anything-but": [0]}]}, "taskDefinitionArn": Match.any_value()},
        {"stopCode": ["TaskFailedToStart"]},
    ):
        services.has_resource_properties(
            "AWS::Events::Rule", {"EventPattern": Match.object_like({"detail": Match.object_like(detail)})}
        )


def test_changes_of_the_keys_and_every_opening_are_told_of(data: Template) -> None:
    data.has_resource_properties(
        "AWS::Events::Rule",
        {
            "EventPattern": Match.object_like(
                {
                    "detail": Match.object_like(
                        {"eventName": ["CreateGrant", "DisableKey", "PutKeyPolicy", "ScheduleKeyDeletion"]}
                    )
                }
            )
        },
    )
    data.has_resource_properties(
        "AWS::Events::Rule",
        {
            "EventPattern": Match.object_like({"detail": Match.object_like({"eventName": ["Decrypt"]})}),
            "State": "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS",
        },
    )


def test_alarms_and_events_may_publish_to_the_encrypted_topic(account: Account) -> None:
    topic = account.of("AWS::SNS::TopicPolicy")[0].properties["PolicyDocument"]["Statement"]
    key = account.one("AWS::KMS::Key", "KeysTelemetry").properties["KeyPolicy"]["Statement"]
    for service in ("cloudwatch.amazonaws.com", "events.amazonaws.com"):
        assert any(service in str(s["Principal"]) and "sns:Publish" in s["Action"] for s in topic)
        assert any(service in str(s["Principal"]) and "kms:GenerateDataKey*" in s["Action"] for s in key)


def test_there_is_a_dashboard_and_a_subscriber(data: Template, services: Template) -> None:
    services.has_resource_properties("AWS::CloudWatch::Dashboard", {"DashboardName": "loginpipe-eu-central-1"})
    data.has_resource_properties("AWS::SNS::Subscription", {"Protocol": "email", "Endpoint": "on-call@example.com"})


def test_the_dashboard_shows_what_the_metrics_task_counts_of_the_queue(account: Account) -> None:
    (board,) = account.of("AWS::CloudWatch::Dashboard")
    body = board.properties["DashboardBody"]
    queue = account.one("AWS::SQS::Queue", "QueueLogins").name
    for name in ("inserted", "rejected", "duplicates"):
        assert f'["loginpipe","loginpipe_messages_{name}_total","queue","{queue}.QueueName"' in body
    metrics = next(t for t in account.of("AWS::ECS::TaskDefinition") if t.properties["Family"] == "loginpipe-metrics")
    (container,) = metrics.properties["ContainerDefinitions"]
    # CloudWatch makes metrics of the lines that it prints.
    assert container["Command"] == ["loginpipe", "metrics", "--emf"]
    assert container["LogConfiguration"]["LogDriver"] == "awslogs"
