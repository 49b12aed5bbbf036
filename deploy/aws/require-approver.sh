#!/usr/bin/env bash
# Fails unless GitHub asks a reviewer before a job of an environment starts: require-approver.sh production
#
# Private repositories have required reviewers only with GitHub Enterprise. Without it, GitHub accepts the environment
# silently and no job waits. WITHOUT_APPROVER=true continues with a warning. Needs GH_TOKEN with actions: read.
set -euo pipefail

environment=${1:?which environment, as in production}

reviewers=$(gh api "repos/$GITHUB_REPOSITORY/environments/$environment" \
  --jq '[.protection_rules[]? | select(.type == "required_reviewers") | .reviewers[]] | length')
if [ "$reviewers" -gt 0 ]; then
  echo "environment $environment asks one of $reviewers reviewers"
elif [ "${WITHOUT_APPROVER:-false}" = true ]; then
  echo "::warning::environment $environment has no required reviewers: this deployment is not approved by anyone"
else
  echo "environment $environment has no required reviewers, so this would not be approved: add them in its settings, or start the workflow with without_approver" >&2
  exit 1
fi
