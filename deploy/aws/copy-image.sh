#!/usr/bin/env bash
# Copies both images of a release, the default one and that of AWS Lambda, unchanged into this environment's repository:
# copy-image.sh 1.2.3
#
# RELEASES is the image repository that the release workflow pushes to. GITHUB_REPOSITORY is the repository of that
# workflow. INSTALLATION is the environment's value `installation`; the default is loginpipe. AWS credentials are those of
# the environment. If one of the images has no signature of that workflow, neither is copied. If GitHub keeps no
# attestations, set SIGNING_KEY to the key that signs releases, awskms:///ARN: cosign then verifies.
set -euo pipefail

version=${1:?which version, as in 1.2.3}

installation=${INSTALLATION:-loginpipe}
stack=$(tr '[:lower:]' '[:upper:]' <<< "${installation:0:1}")${installation:1}Data
images=$(aws cloudformation describe-stacks --stack-name "$stack" --output text \
  --query "Stacks[0].Outputs[?OutputKey=='Images'].OutputValue")
for registry in "${RELEASES%%/*}" "${images%%/*}"; do
  # 111122223333.dkr.ecr.eu-central-1.amazonaws.com
  region=$(cut -d. -f4 <<< "$registry")
  aws ecr get-login-password --region "$region" | docker login --username AWS --password-stdin "$registry"
done

# From here on by digest, so that the verified images are the ones that are copied.
declare -A digests
for tag in "$version" "$version-lambda"; do
  digest=$(skopeo inspect --no-tags --format '{{.Digest}}' "docker://$RELEASES:$tag")
  if [ -n "${SIGNING_KEY:-}" ]; then
    # The signature of a private image is in no public log.
    cosign verify --key "$SIGNING_KEY" --insecure-ignore-tlog=true "$RELEASES@$digest"
  else
    gh attestation verify "oci://$RELEASES@$digest" --repo "$GITHUB_REPOSITORY" \
      --signer-workflow "$GITHUB_REPOSITORY/.github/workflows/release.yml"
  fi
  digests[$tag]=$digest
done

for tag in "$version" "$version-lambda"; do
  digest=${digests[$tag]}
  known=$(aws ecr batch-get-image --repository-name "${images#*/}" --image-ids "imageTag=$tag" \
    --query 'images[0].imageId.imageDigest' --output text)
  if [ "$known" = None ]; then
    skopeo copy --all --preserve-digests "docker://$RELEASES@$digest" "docker://$images:$tag"
  elif [ "$known" != "$digest" ]; then
    echo "$images has another image as $tag ($known, the release is $digest): delete it there, or give the release another version" >&2
    exit 1
  fi
done
