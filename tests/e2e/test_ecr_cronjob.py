"""Whoever comes from the usual CronJob for ECR has the keys of a user in a Secret `aws-credentials`, and nothing else.

docs/ecr.md is followed on a real API server, with moto as AWS: its commands, its values through Helm, and what a
kubelet would mount of the Secret.
"""

from __future__ import annotations

import asyncio
import base64
import re
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import config
from controller.core.errors import MintError
from controller.net.transport import AiohttpTransport
from controller.providers.contract import Tools
from testing.controller import ControllerProcess
from tests.e2e.support import kubelet
from tests.e2e.support.charts import Object, of_kind, render
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.installed import ROOT
from tests.e2e.support.moto import ACCOUNT, PULL, USER, Account, running
from tests.e2e.support.observer import Secret
from tests.e2e.support.tenant import EVENT_SECONDS, Tenant, annotation

PAGE = (ROOT / "docs" / "ecr.md").read_text()
(SECTION,) = re.findall(r"^### Keys of a user, as a CronJob .*?\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
CREATE_KEYS, CREATE_AND_ANNOTATE = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
(VALUES,) = re.findall(r"^```yaml\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
NAMESPACE = "pull-secret-updater"
HOST = f"{ACCOUNT}.dkr.ecr.eu-central-1.amazonaws.com"
TOKEN_SECONDS = 30


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("moto"), token_seconds=TOKEN_SECONDS) as url:
        yield url


async def a_user_with_a_key(url: str) -> tuple[str, str]:
    """The key of a user who may pull and nothing else; from then on AWS checks every request."""
    transport = AiohttpTransport()
    tools = Tools(
        name="moto",
        timeout_seconds=10.0,
        default_lifetime_seconds=None,
        transport=transport,
        proof=_none,
        now=time.time,
        max_lifetime_seconds=43200.0,
        refreshed_by_share=0.65,
        cleaned=_nothing,
    )
    account = Account(url, tools)
    try:
        await account.reset()
        keys = await account.user(PULL)
        await account.check_every_action()
    finally:
        await transport.close()
    return keys


async def _none(_audience: str) -> str:
    raise AssertionError("keys are proven without a token")


def _nothing(_error: MintError | None) -> None:
    """There is no clean-up at ECR."""


@pytest.fixture
def aws_credentials(cluster: Cluster, manifests: str, moto: str) -> Iterator[None]:
    """The page's Secret, made by its command with the keys of a real user."""
    del manifests  # they make the namespace
    key_id, secret_key = asyncio.run(a_user_with_a_key(moto))
    create = shlex.split(CREATE_KEYS.replace("\\\n", " "))[1:]
    mine = {"AKIAIOSFODNN7EXAMPLE": key_id, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": secret_key}
    for example, key in mine.items():
        assert sum(example in argument for argument in create) == 1
        create = [argument.replace(example, key) for argument in create]
    cluster.kubectl(*create)
    yield
    cluster.kubectl("-n", NAMESPACE, "delete", "secret", "aws-credentials")


def mounted(cluster: Cluster, objects: list[Object], directory: Path) -> dict[str, str]:
    """What a kubelet mounts of Secrets for the chart's Deployment, below a directory: the path in the Pod, and here."""
    (deployment,) = of_kind(objects, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    paths = {}
    for volume in pod["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            if "secret" not in source:
                continue
            data = cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{source['secret']['name']}")["data"]
            for item in source["secret"]["items"]:
                file = directory / item["path"]
                file.write_bytes(base64.b64decode(data[item["key"]]))
                paths[f"{places[volume['name']]}/{item['path']}"] = str(file)
    return paths


def with_files_at(provider: Object, paths: dict[str, str]) -> dict[str, Any]:
    """A provider's settings with the files where they really are."""
    return {
        key: {"file": paths[value["file"]]} if isinstance(value, dict) else value for key, value in provider.items()
    }


@pytest.mark.usefixtures("aws_credentials")
def test_the_cronjobs_own_secret_aws_credentials_fills_and_refreshes_pull_secrets_with_no_role_in_between(
    cluster: Cluster, moto: str, controller: Callable[..., ControllerProcess], tenant: Tenant, tmp_path: Path
) -> None:
    objects = render(yaml.safe_load(VALUES), tmp_path=tmp_path)
    paths = mounted(cluster, objects, tmp_path)
    assert sorted(paths) == ["/var/run/ecr/AWS_ACCESS_KEY_ID", "/var/run/ecr/AWS_SECRET_ACCESS_KEY"]
    (content,) = (
        each["data"]["config.yaml"] for each in of_kind(objects, "ConfigMap") if "config.yaml" in each["data"]
    )
    (tmp_path / "config.yaml").write_text(content)
    config.load(tmp_path / "config.yaml")
    provider = with_files_at(yaml.safe_load(content)["providers"]["ecr"], paths)
    controller(config={"providers": {"ecr": {**provider, "stsEndpoint": moto, "ecrEndpoint": moto}}})

    for command in CREATE_AND_ANNOTATE.splitlines():
        cluster.kubectl(*shlex.split(command)[1:], kubeconfig=cluster.kubeconfig_in(tenant.namespace))
    first = tenant.wait(filled, timeout=EVENT_SECONDS).secret
    assert (annotation(first, "identity"), annotation(first, "error")) == (USER, None)
    user, password = kubelet.credentials(first)[HOST]
    assert (user, password.startswith(f"{ACCOUNT}-auth-token-")) == ("AWS", True)
    second = tenant.wait(
        lambda secret: filled(secret) and kubelet.credentials(secret)[HOST] != (user, password),
        timeout=TOKEN_SECONDS + EVENT_SECONDS,
    ).secret
    assert second["metadata"]["uid"] == first["metadata"]["uid"]


def filled(secret: Secret) -> bool:
    """Whether there is a credential for the registry, and an end of it."""
    return HOST in kubelet.credentials(secret) and annotation(secret, "expires-at") is not None
