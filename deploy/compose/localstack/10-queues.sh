#!/usr/bin/env bash
# Run by LocalStack each time it is ready; its queues live in memory. CreateQueue with equal attributes changes nothing.
set -euo pipefail

# 14 days is the most SQS keeps a message, and a dead letter should outlive the holiday of whoever looks after it.
awslocal sqs create-queue --queue-name login-queue-dlq --attributes MessageRetentionPeriod=1209600

# 30 seconds are for whoever receives without asking for another visibility timeout; the pipeline asks.
# Five deliveries leave room for a run that crashes, and still set a message that always kills its run aside.
dead_letters=$(awslocal sqs get-queue-attributes --attribute-names QueueArn --query Attributes.QueueArn --output text \
  --queue-url "$(awslocal sqs get-queue-url --queue-name login-queue-dlq --query QueueUrl --output text)")
awslocal sqs create-queue --queue-name login-queue --attributes "$(
  printf '{"VisibilityTimeout": "30", "RedrivePolicy": "{\\"deadLetterTargetArn\\": \\"%s\\", \\"maxReceiveCount\\": \\"5\\"}"}' \
    "$dead_letters"
)"
