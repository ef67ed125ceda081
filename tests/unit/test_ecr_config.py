"""Where Amazon ECR is asked, what is refused in its configuration, and that nothing else is heeded."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import EndpointProviderError
from botocore.loaders import Loader

import controller.providers
from controller import config
from controller.providers import aws
from testing.aws import Role
from tests.unit import contract_ecr
from tests.unit.contract_ecr import (
    FIRST_ROLE,
    IDENTITY,
    REGISTRY,
    TOKEN_FILE,
    on_instance,
    refused,
    vendor,
    with_agent,
)
from tests.unit.provider_world import SUBJECT, World, configured
from tests.unit.virtual_time import Clock

NewWorld = Callable[..., World]


@pytest.fixture
def new_world(clock: Clock, tmp_path: Path) -> NewWorld:
    """Makes a world of `ecr`; keyword arguments are settings put over those of the contract suite."""
    return lambda **overrides: contract_ecr.world(clock, tmp_path, **overrides)


@pytest.fixture
def world(new_world: NewWorld) -> World:
    return new_world()


# Places.


@pytest.mark.parametrize(
    ("region", "fips", "dual_stack", "registry", "sts"),
    [
        ("eu-central-1", False, False, "api.ecr.eu-central-1.amazonaws.com", "sts.eu-central-1.amazonaws.com"),
        ("eu-central-1", False, True, "ecr.eu-central-1.api.aws", "sts.eu-central-1.api.aws"),
        ("us-east-2", True, False, "api.ecr-fips.us-east-2.amazonaws.com", "sts-fips.us-east-2.amazonaws.com"),
        ("us-east-2", True, True, "ecr-fips.us-east-2.api.aws", "sts-fips.us-east-2.api.aws"),
        ("us-gov-west-1", True, False, "api.ecr-fips.us-gov-west-1.amazonaws.com", "sts.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", False, False, "api.ecr.cn-north-1.amazonaws.com.cn", "sts.cn-north-1.amazonaws.com.cn"),
        ("eusc-de-east-1", False, False, "api.ecr.eusc-de-east-1.amazonaws.eu", "sts.eusc-de-east-1.amazonaws.eu"),
        ("us-iso-east-1", False, False, "api.ecr.us-iso-east-1.c2s.ic.gov", "sts.us-iso-east-1.c2s.ic.gov"),
        ("us-isob-east-1", False, False, "api.ecr.us-isob-east-1.sc2s.sgov.gov", "sts.us-isob-east-1.sc2s.sgov.gov"),
        ("xx-new-7", False, False, "api.ecr.xx-new-7.amazonaws.com", "sts.xx-new-7.amazonaws.com"),
    ],
)
def test_every_partition_has_its_own_endpoints(
    region: str, fips: bool, dual_stack: bool, registry: str, sts: str
) -> None:
    found = [aws.endpoint(name, region=region, fips=fips, dual_stack=dual_stack) for name in ("ecr", "sts")]
    assert found == [f"https://{registry}", f"https://{sts}"]


@pytest.mark.parametrize(
    ("registry", "region"),
    [
        (REGISTRY, "eu-central-1"),
        ("123456789012.dkr-ecr.us-west-2.on.aws", "us-west-2"),
        ("123456789012.dkr.ecr-fips.us-gov-east-1.amazonaws.com", "us-gov-east-1"),
        ("123456789012.dkr.ecr.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1"),
        ("123456789012.dkr.ecr.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1"),
    ],
)
async def test_the_region_is_that_of_the_registries(new_world: NewWorld, registry: str, region: str) -> None:
    world = new_world(registries=[registry])
    vendor(world).region = vendor(world).sts_region = region
    await world.mint()
    assert f".{region}." in world.wire.asked[-1].host


async def test_sts_may_be_asked_in_another_region(new_world: NewWorld) -> None:
    world = new_world(stsRegion="eu-west-1", roleArn=FIRST_ROLE)
    vendor(world).sts_region = "eu-west-1"
    vendor(world).add(Role(arn=FIRST_ROLE, subjects=frozenset({SUBJECT})))
    vendor(world).add(Role(arn=IDENTITY, principals=frozenset({FIRST_ROLE})))
    await world.mint()
    assert [asked.host for asked in world.wire.asked] == [
        *["sts.eu-west-1.amazonaws.com"] * 2,
        "api.ecr.eu-central-1.amazonaws.com",
    ]


async def test_endpoints_of_ones_own_are_used_and_signed_for(new_world: NewWorld) -> None:
    endpoints = {"ecrEndpoint": "https://ecr.vpce.example", "stsEndpoint": "http://127.0.0.1:4566/"}
    world = new_world(registries=["mirror.example"], region="eu-central-1", **endpoints)
    await world.mint()
    assert [asked.url for asked in world.wire.asked] == ["http://127.0.0.1:4566/", "https://ecr.vpce.example/"]


async def test_two_regions_are_two_providers(new_world: NewWorld) -> None:
    for region in ("us-east-1", "eu-west-3"):
        world = new_world(registries=[REGISTRY.replace("eu-central-1", region)])
        assert "InvalidSignatureException" in (await refused(world)).detail, "the stand-in is in eu-central-1"
        vendor(world).region = region
        await world.mint()


# Nothing from the surroundings.


async def test_no_setting_of_the_environment_or_of_dot_aws_is_used(
    new_world: NewWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for service in ("ecr", "sts"):
        rules = json.loads(json.dumps(Loader().load_service_model(service, "endpoint-rule-set-1")))
        text = json.dumps(rules).replace("amazonaws", "attacker").replace("dnsSuffix", "attacker")
        place = home / ".aws" / "models" / service / "2099-01-01"
        place.mkdir(parents=True)
        (place / "endpoint-rule-set-1.json").write_text(text)
    (home / ".aws" / "config").write_text("[default]\nregion = xx-bad-1\nendpoint_url = http://attacker\n")
    (home / ".aws" / "credentials").write_text("[default]\naws_access_key_id = AKIAHOSTILE\n")
    monkeypatch.setattr(Loader, "CUSTOMER_DATA_PATH", str(home / ".aws" / "models"))
    hostile = {
        "HOME": home,
        "AWS_DATA_PATH": home / ".aws" / "models",
        "AWS_CONFIG_FILE": home / ".aws" / "config",
        "AWS_SHARED_CREDENTIALS_FILE": home / ".aws" / "credentials",
        "AWS_CA_BUNDLE": home / "ca",
        "AWS_WEB_IDENTITY_TOKEN_FILE": home / "token",
        "AWS_ROLE_ARN": "arn:aws:iam::666666666666:role/hostile",
    }
    hostile |= dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), "xx-bad-1")
    hostile |= dict.fromkeys(("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"), "true")
    hostile |= dict.fromkeys(
        (
            *("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
            *("AWS_ROLE_SESSION_NAME", "AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        ),
        "hostile",
    )
    hostile |= dict.fromkeys(
        (
            *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_ECR", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
            *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"),
        ),
        "http://attacker",
    )
    for name, value in hostile.items():
        monkeypatch.setenv(name, str(value))
    aws._rules.cache_clear()
    for world in (new_world(), with_agent(new_world), on_instance(new_world)):
        await world.mint()
        everything = " ".join(f"{asked.url} {dict(asked.headers)} {asked.body!r}" for asked in world.wire.asked)
        assert not [
            word for word in ("attacker", "hostile", "HOSTILE", "xx-bad-1", "fips", "api.aws") if word in everything
        ]
        assert world.wire.asked[-1].url == "https://api.ecr.eu-central-1.amazonaws.com/"


async def test_the_sdks_debug_log_holds_no_secret(
    new_world: NewWorld, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for world in (new_world(), with_agent(new_world), on_instance(new_world)):
        await world.mint()
        said = "".join([caplog.text, *capfd.readouterr()])
        assert not [secret for secret in {*vendor(world).secrets, *world.canaries()} if secret in said]
        assert repr(aws.Keys("AKID", "secret", "token")) == "Keys(expires_at=None)"


def test_a_missing_package_is_a_problem_that_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "controller.providers.aws")
    monkeypatch.delattr(controller.providers, "aws")
    monkeypatch.setitem(sys.modules, "botocore.auth", None)
    with pytest.raises(config.ConfigError, match=r"type: ecr needs .* pip install pull-secret-updater\[aws\]"):
        configured(contract_ecr.ROW, tmp_path)


# Configuration.

STATIC = {"credentials": "static", "tokenFile": None, "accessKeyId": {"env": "A"}, "secretAccessKey": {"file": "/b"}}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"tokenFile": None}, "tokenFile: is needed with credentials webIdentity"),
        ({"credentials": "podIdentity", "tokenFile": None}, "tokenFile: is needed with credentials podIdentity"),
        ({"credentials": "profile"}, "credentials: must be one of webIdentity, podIdentity, instanceProfile, static"),
        ({"credentials": "instanceProfile"}, "tokenFile: is not used with credentials instanceProfile; remove it"),
        (
            {"credentials": "instanceProfile", "tokenFile": None, "metadataEndpoint": "http://metadata.example"},
            "metadataEndpoint: must be https, unless",
        ),
        ({**STATIC, "metadataEndpoint": "http://127.0.0.1"}, "metadataEndpoint: is not used with credentials static"),
        ({**STATIC, "tokenFile": "/t"}, "tokenFile: is not used with credentials static; remove it"),
        ({**STATIC, "roleArn": FIRST_ROLE}, "roleArn: is not used with credentials static; remove it"),
        ({**STATIC, "audience": "x"}, "audience: is not used with credentials static; remove it"),
        ({**STATIC, "accessKeyId": {}}, "accessKeyId: must name either env"),
        ({**STATIC, "secretAccessKey": {"env": "A", "file": "/b"}}, "secretAccessKey: must name either env"),
        ({**STATIC, "accessKeyId": {"environ": "A"}}, "accessKeyId.environ: is not a known key"),
        ({**STATIC, "sessionToken": {}}, "sessionToken: must name either env"),
        ({**STATIC, "sessionToken": {"env": "A", "environ": "B"}}, "sessionToken.environ: is not a known key"),
        ({"accessKeyId": {"env": "A"}}, "accessKeyId: is not used with credentials webIdentity; remove it"),
        ({"podIdentityEndpoint": "http://127.0.0.1"}, "podIdentityEndpoint: is not used with credentials web"),
        (
            {"credentials": "podIdentity", "podIdentityEndpoint": "http://metadata.example"},
            "podIdentityEndpoint: must be https, unless",
        ),
        ({"durationSeconds": 899}, "durationSeconds: must be from 900 to 43200"),
        ({"durationSeconds": 43201}, "durationSeconds: must be from 900 to 43200"),
        ({"durationSeconds": 3601, "roleArn": FIRST_ROLE}, "durationSeconds: must be from 900 to 3600, as one role"),
        (
            {**STATIC, "durationSeconds": 3601, "sessionToken": {"env": "T"}},
            "durationSeconds: must be from 900 to 3600",
        ),
        ({"durationSeconds": 3601, "credentials": "podIdentity"}, "durationSeconds: must be from 900 to 3600"),
        ({"sessionPolicy": {"Version": "2012-10-17"}}, "sessionPolicy: must be an IAM policy with a Statement"),
        ({"sessionPolicy": {"Statement": ["x" * 2048]}}, "sessionPolicy: must be an IAM policy with a Statement"),
        ({"sessionPolicy": "{}"}, "sessionPolicy: must be "),
        ({"roleArn": "first"}, "roleArn: must be the ARN of a role"),
        ({"externalId": "x-1"}, "externalId: is only sent by one role to another"),
        ({"externalId": "with blanks", "roleArn": FIRST_ROLE}, "externalId: must be 2 to 1224"),
        ({"sessionName": "a b"}, "sessionName: must be 2 to 64"),
        ({"sessionName": "x"}, "sessionName: must be 2 to 64"),
        ({"region": "eu-central-1/../x"}, "region: 'eu-central-1/../x' is not a region"),
        ({"stsRegion": "x"}, "stsRegion: 'x' is not a region"),
        ({"region": "us-east-1"}, f"registries: '{REGISTRY}' is not in us-east-1"),
        ({"registries": ["cgr.dev"]}, "region: is needed"),
        ({"registries": [REGISTRY, "cgr.dev"]}, "registries: 'cgr.dev' is not a registry of ECR"),
        ({"registries": [REGISTRY, REGISTRY.replace("central", "west")]}, "region: is needed, since the registries"),
        (
            {"registries": [f"{REGISTRY}.evil.example"]},
            f"registries: '{REGISTRY}.evil.example' is not a registry of ECR",
        ),
        ({"ecrEndpoint": "http://ecr.example"}, "ecrEndpoint: must be https"),
        ({"stsEndpoint": "http://sts.example"}, "stsEndpoint: must be https"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_key(tmp_path: Path, settings: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        configured(contract_ecr.ROW, tmp_path, {"durationSeconds": 3600, **settings})
    assert f"providers.under-test.{problem}" in str(caught.value)


def test_a_region_without_the_wanted_endpoints_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise EndpointProviderError(msg="DualStack is enabled but this partition does not support DualStack")

    monkeypatch.setattr(EndpointProvider, "resolve_endpoint", refuse)
    with pytest.raises(
        config.ConfigError, match="region: eu-central-1 has no endpoint of ecr for these fips and dualStack"
    ):
        configured(contract_ecr.ROW, tmp_path, {"dualStack": True})


@pytest.mark.parametrize(
    "settings",
    [
        STATIC,
        {**STATIC, "sessionToken": {"env": "T"}, "externalId": "x-1"},
        {"credentials": "podIdentity", "podIdentityEndpoint": "http://127.0.0.1:8080/v1/credentials"},
        {"credentials": "instanceProfile", "tokenFile": None},
        {"credentials": "instanceProfile", "tokenFile": None, "metadataEndpoint": "http://[fd00:ec2::254]"},
        {"durationSeconds": 43200},
        {"registries": [REGISTRY, REGISTRY.replace("123456789012", "999999999999")]},
        {"registries": ["127.0.0.1:5000"], "region": "eu-central-1", "ecrEndpoint": "http://127.0.0.1:4566"},
        {"fips": True, "dualStack": True},
    ],
)
def test_what_makes_sense_is_taken(tmp_path: Path, settings: Mapping[str, Any]) -> None:
    configured(contract_ecr.ROW, tmp_path, {"durationSeconds": 3600, **settings})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"region": "eu-central-1"}, "region: ECR Public is in us-east-1 only"),
        ({"fips": True}, "fips: ECR Public has no FIPS endpoint; remove it"),
        ({"registries": [REGISTRY]}, f"registries: '{REGISTRY}' is not ecr-public.aws.com or public.ecr.aws"),
    ],
)
def test_ecr_public_is_one_place(tmp_path: Path, settings: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(config.ConfigError, match=problem):
        configured(contract_ecr.ROW_PUBLIC, tmp_path, settings)
    assert configured(contract_ecr.ROW_PUBLIC, tmp_path).registries == ("public.ecr.aws",)


async def test_ecr_public_may_ask_the_sts_of_its_clusters_region(clock: Clock, tmp_path: Path) -> None:
    world = World(contract_ecr.ROW_PUBLIC, clock, tmp_path, {"stsRegion": "ap-south-1", "tokenFile": TOKEN_FILE})
    vendor(world).sts_region = "ap-south-1"
    await world.mint()
