#!/usr/bin/env python3
"""Builds the image in AWS CodeBuild, pushes it to ECR and prints its name as the last line; needs no local Docker.

    scripts/codebuild/start_build.py --bucket my-bucket [--create-role]

Uploads the checked-out commit (without uncommitted changes) to the bucket, creates or updates the CodeBuild project,
follows the build's log and deletes the source again. --create-role creates the role that CodeBuild uses, from
scripts/iam/codebuild-*.json; this requires permission to create roles. --print-policies prints all policies of
scripts/iam with their placeholders filled in.
"""

from __future__ import annotations

import argparse
import json
import os
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ROOT / "scripts" / "iam"
# Ubuntu with a Docker Engine. Horovod and TensorFlow need more than the smallest machine's 3 GB.
BUILD_MACHINE = {
    "type": "LINUX_CONTAINER",
    "image": "aws/codebuild/standard:7.0",
    "computeType": "BUILD_GENERAL1_LARGE",
    "privilegedMode": True,
}
IMAGE_LINE = "frcnn image "  # scripts/codebuild/buildspec.yml prints it before the name
TIMEOUT_MINUTES = 120
POLL_SECONDS = float(os.environ.get("POLL_SECONDS", "10"))


def policy(name: str, values: dict[str, str]) -> str:
    """A policy of scripts/iam with account, region and names filled in; KeyError if a value is missing."""
    return string.Template((POLICIES / f"{name}.json").read_text()).substitute(values)


def policy_values(session: Any, options: argparse.Namespace) -> dict[str, str]:
    """The values of the policies' placeholders."""
    identity = session.client("sts").get_caller_identity()
    return {
        "PARTITION": identity["Arn"].split(":")[1],
        "REGION": session.region_name,
        "ACCOUNT": identity["Account"],
        "REPOSITORY": options.repository,
        "BUCKET": options.bucket,
        "PREFIX": options.prefix,
        "PROJECT": options.project,
        "ROLE": options.job_role,
        "BUILD_ROLE": options.role,
        **({"KMS_KEY": options.kms_key} if options.kms_key else {}),
    }


def create_role(session: Any, values: dict[str, str]) -> None:
    """Create or update the build's role."""
    iam = session.client("iam")
    try:
        iam.create_role(RoleName=values["BUILD_ROLE"], AssumeRolePolicyDocument=policy("codebuild-trust", values))
        iam.get_waiter("role_exists").wait(RoleName=values["BUILD_ROLE"])
    except iam.exceptions.EntityAlreadyExistsException:
        iam.update_assume_role_policy(RoleName=values["BUILD_ROLE"], PolicyDocument=policy("codebuild-trust", values))
    iam.put_role_policy(
        RoleName=values["BUILD_ROLE"],
        PolicyName="build-and-push",
        PolicyDocument=policy("codebuild-permissions", values),
    )


def upload_source(session: Any, values: dict[str, str], revision: str) -> str:
    """Upload a commit to the bucket as a zip file; returns its key."""
    archive = subprocess.check_output(["git", "archive", "--format=zip", revision], cwd=ROOT)
    key = f"{values['PREFIX']}/{revision}.zip"
    session.client("s3").put_object(Bucket=values["BUCKET"], Key=key, Body=archive)
    return key


def put_project(session: Any, values: dict[str, str], source: str, variables: dict[str, str]) -> None:
    """Create or update the project. A new role may take seconds to become visible, so rejected requests are retried."""
    codebuild = session.client("codebuild")
    request = {
        "name": values["PROJECT"],
        "source": {
            "type": "S3",
            "location": f"{values['BUCKET']}/{source}",
            "buildspec": "scripts/codebuild/buildspec.yml",
        },
        "artifacts": {"type": "NO_ARTIFACTS"},
        "environment": {
            **BUILD_MACHINE,
            "environmentVariables": [{"name": key, "value": value} for key, value in variables.items()],
        },
        "serviceRole": f"arn:{values['PARTITION']}:iam::{values['ACCOUNT']}:role/{values['BUILD_ROLE']}",
        "timeoutInMinutes": TIMEOUT_MINUTES,
    }
    for attempts_left in range(5, -1, -1):
        try:
            codebuild.create_project(**request)
            return
        except codebuild.exceptions.ResourceAlreadyExistsException:
            codebuild.update_project(**request)
            return
        except codebuild.exceptions.InvalidInputException:
            if not attempts_left:
                raise
            time.sleep(POLL_SECONDS)


def new_lines(logs: Any, stream: dict[str, str], token: str | None) -> tuple[list[str], str | None]:
    """The log's lines after ``token``, and the next token."""
    lines: list[str] = []
    while stream.get("streamName"):
        position = {"nextToken": token} if token else {}
        try:
            page = logs.get_log_events(
                logGroupName=stream["groupName"], logStreamName=stream["streamName"], startFromHead=True, **position
            )
        except logs.exceptions.ResourceNotFoundException:  # no log line has been written yet
            break
        lines += [event["message"].rstrip() for event in page["events"]]
        if page["nextForwardToken"] == token:
            break
        token = page["nextForwardToken"]
    return lines, token


def follow(session: Any, build: str) -> str | None:
    """Follow the build's log; returns the image's name, or None if the build failed."""
    codebuild, logs = session.client("codebuild"), session.client("logs")
    token, image = None, None
    while True:
        state = codebuild.batch_get_builds(ids=[build])["builds"][0]
        lines, token = new_lines(logs, state.get("logs", {}), token)
        for line in lines:
            print(line, file=sys.stderr)
            if line.startswith(IMAGE_LINE):
                image = line.removeprefix(IMAGE_LINE)
        if state["buildStatus"] != "IN_PROGRESS":
            print(f"build {build}: {state['buildStatus']}", file=sys.stderr)
            return image if state["buildStatus"] == "SUCCEEDED" else None
        time.sleep(POLL_SECONDS)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bucket", required=True, help="S3 bucket of your account, which holds the source during the build"
    )
    parser.add_argument("--prefix", default="frcnn-image-source", help="folder in it (%(default)s)")
    parser.add_argument("--region", help="region of your SageMaker jobs; default: the configured one")
    parser.add_argument("--repository", default="frcnn", help="name in ECR (%(default)s)")
    parser.add_argument("--project", default="frcnn-image", help="name of the CodeBuild project (%(default)s)")
    parser.add_argument(
        "--role", default="frcnn-image-build", help="name of the role that CodeBuild assumes (%(default)s)"
    )
    parser.add_argument(
        "--job-role",
        default="frcnn-training",
        help="name of the role of the containers, used in the policies (%(default)s)",
    )
    parser.add_argument(
        "--kms-key",
        help="ARN of a key for disks and S3; prints the policy for its use",
    )
    parser.add_argument("--create-role", action="store_true", help="create or update the build's role first")
    parser.add_argument(
        "--set",
        action="append",
        type=_setting,
        default=[],
        metavar="NAME=VALUE",
        help="variable of scripts/build_image.sh and push_ecr.sh, such as DEVICE=cpu",
    )
    parser.add_argument("--print-policies", action="store_true", help="print the policies and exit")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and exit")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        return run(options)
    except ClientError as error:
        details = error.response["Error"]
        reason = f"{error.operation_name}: {details.get('Message') or details['Code']}"
        if details["Code"] == "NoSuchBucket":
            reason = f"bucket '{options.bucket}' does not exist; create it: aws s3 mb s3://{options.bucket}"
    except BotoCoreError as error:
        reason = str(error)
    print(f"start_build: {reason}", file=sys.stderr)
    return 2


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for; returns the exit code."""
    session = boto3.session.Session(region_name=options.region)
    if not session.region_name:
        print("start_build: no region is configured; set --region or AWS_DEFAULT_REGION", file=sys.stderr)
        return 2
    values = policy_values(session, options)
    if options.print_policies:
        for file in sorted(POLICIES.glob("*.json")):
            if file.stem == "kms-policy" and not options.kms_key:
                continue
            print(f"# {file.name}\n{policy(file.stem, values)}")
        return 0
    revision = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    variables = {
        "REPOSITORY": options.repository,
        "GIT_REVISION": revision[:12],
        **dict(options.set),
    }
    if options.dry_run:
        print(
            json.dumps(
                {"project": values["PROJECT"], "machine": BUILD_MACHINE, "variables": variables, **values}, indent=1
            )
        )
        return 0
    source = upload_source(session, values, revision)  # first: it fails if the bucket does not exist
    try:
        if options.create_role:
            create_role(session, values)
        put_project(session, values, source, variables)
        build = session.client("codebuild").start_build(projectName=values["PROJECT"])["build"]["id"]
        image = follow(session, build)
    finally:
        session.client("s3").delete_object(Bucket=values["BUCKET"], Key=source)
    if image:
        print(image)
    return 0 if image else 1


if __name__ == "__main__":
    sys.exit(main())
