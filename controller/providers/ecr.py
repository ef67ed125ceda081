"""Amazon ECR and ECR Public: a session of the role that the Secret names becomes a registry password.

Pages: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html,
https://docs.aws.amazon.com/AmazonECRPublic/latest/APIReference/API_GetAuthorizationToken.html

Request   POST to STS, for a session of the role: AssumeRoleWithWebIdentity with the projected token; or AssumeRole with
          keys of another role, of the EKS Pod Identity agent, or from the environment or files that the configuration
          names. Then POST to ECR, signed with that session: GetAuthorizationToken.
Response  200 {"authorizationData": [{"authorizationToken": base64 of AWS:password, "expiresAt": seconds since the
          epoch, "proxyEndpoint": URL}]}; from ECR Public the object alone, without endpoint. The session must be of
          the role in the annotation, and the endpoint of its account and our region.
Lifetime  `expiresAt`, 12 hours; and the end of the session, unless `endsWithSession` is false. Registries were seen to
          refuse a password whose session was over (kubernetes/kubernetes#69141), and AWS says nothing about it. A
          refresh too early costs three requests, one too late every pull.
Errors    by code in aws.py: {"__type": "namespace#Code"} of ECR, <Error><Code> of STS.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec

from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.http import Reply
from controller.providers.base import (
    KeySource,
    ProviderSettings,
    Tools,
    Url,
    make_token,
    needs_extra,
    needs_node_address,
    needs_token_file,
    only_with,
    read_json,
    with_proof,
)

if TYPE_CHECKING:
    from controller.providers.aws import Keys, Service

IDENTITY = r"arn:aws[a-z-]*:iam::[0-9]{12}:role/([!-~]+/)?[A-Za-z0-9_+=,.@-]{1,64}"
"""The ARN of a role."""

USERNAME = "AWS"
POD_IDENTITY_ENDPOINT = "http://169.254.170.23/v1/credentials"

_TARGETS = {
    "ecr": "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
    "ecr-public": "SpencerFrontendService.GetAuthorizationToken",
}
_PUBLIC_HOSTS = frozenset({"public.ecr.aws", "ecr-public.aws.com"})  # the second speaks IPv6 too
_PUBLIC_REGION = "us-east-1"
_HOST = re.compile(
    r"(?P<account>[0-9]{12})\.dkr[.-]ecr(-fips)?\.(?P<region>[a-z0-9][a-z0-9-]*)\."
    r"(amazonaws\.(com(\.cn)?|eu)|on\.(aws|amazonwebservices\.com\.cn|amazonwebservices\.eu)"
    r"|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
"""As kubernetes/cloud-provider-aws has it, and the sovereign cloud's dual-stack name."""
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
_SESSION_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{2,64}")
_EXTERNAL_ID = re.compile(r"[A-Za-z0-9_+=,.@:/-]{2,1224}")

_PASSWORD_SECONDS = 12 * 3600
_SECONDS = (900, 43200)
_CHAINED_SECONDS = 3600
"""A session that another session asked for ends after an hour at most."""

_AUDIENCES = {"webIdentity": "sts.amazonaws.com", "podIdentity": "pods.eks.amazonaws.com", "static": ""}
_ONLY_WITH = {
    "token_file": ("webIdentity", "podIdentity"),
    "audience": ("webIdentity", "podIdentity"),
    "role_arn": ("webIdentity",),
    "pod_identity_endpoint": ("podIdentity",),
    "access_key_id": ("static",),
    "secret_access_key": ("static",),
    "session_token": ("static",),
}
"""Which `credentials` a setting has a meaning for."""


class EcrSettings(ProviderSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: ecr`."""

    credentials: Literal["webIdentity", "podIdentity", "static"] = "webIdentity"
    """What proves who asks: the projected token; the EKS Pod Identity agent; or keys."""
    audience: str | None = None
    """Of the projected token; None is AWS's own for these credentials."""
    role_arn: str | None = None
    """A role to be first, with the projected token; it then assumes the identity's role."""
    external_id: str | None = None
    session_name: str = "pull-secret-updater"
    """What CloudTrail shows beside the role."""
    duration_seconds: int = 3600
    """Of the session of the identity's role; the role's own maximum must allow it."""
    ends_with_session: bool = True
    """Count a token as expired when the session that it was minted from ends."""
    region: str | None = None
    """None is the region of the registries."""
    sts_region: str | None = None
    """None is `region`."""
    fips: bool = False
    dual_stack: bool = False
    ecr_endpoint: Url | None = None
    sts_endpoint: Url | None = None
    pod_identity_endpoint: str | None = None
    access_key_id: KeySource = KeySource()
    secret_access_key: KeySource = KeySource()
    session_token: KeySource = KeySource()


class EcrPublicSettings(EcrSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: ecr-public`."""

    registries: tuple[str, ...] = ("public.ecr.aws",)


class _Authorization(msgspec.Struct, frozen=True, rename="camel"):
    authorization_token: str
    expires_at: float | None = None
    proxy_endpoint: str | None = None


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    authorization_data: list[_Authorization] | _Authorization


class Ecr:
    """Mints with the session of the identity's role, and no other."""

    SETTINGS: ClassVar[type[ProviderSettings]] = EcrSettings
    SHARES_TOKEN: ClassVar[bool] = True
    """A password is good for every registry of its region that the role may read, in any account."""

    @staticmethod
    def problems(settings: EcrSettings) -> Iterator[str]:
        """See ProviderType."""
        yield from _proof_problems(settings)
        yield from _session_problems(settings)
        yield from _place_problems(settings)

    def __init__(self, name: str, settings: EcrSettings, tools: Tools) -> None:
        with needs_extra("aws"):
            from controller.providers import aws  # noqa: PLC0415 -- it imports botocore

        self._aws = aws
        self._name = name
        self._settings = settings
        self._tools = tools
        self._region = _region(settings)
        self._registry = self._service(settings.type, self._region, settings.ecr_endpoint)
        sts = self._service("sts", settings.sts_region or self._region, settings.sts_endpoint)
        self._sts = aws.Sts(sts, settings.session_name)

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        return await with_proof(self._proof, lambda proof: self._exchange(identity, proof))

    async def _proof(self) -> str | Keys:
        settings = self._settings
        if settings.credentials != "static":
            return await self._tools.proof(settings.audience or _AUDIENCES[settings.credentials])
        access_key, secret_key = settings.access_key_id.read(), settings.secret_access_key.read()
        if access_key is None or secret_key is None:
            raise MintError(Problem.PROOF_MISSING, "no keys are configured")
        return self._aws.Keys(access_key, secret_key, settings.session_token.read())

    async def _exchange(self, identity: str, proof: str | Keys) -> Token:
        session = await self._session(identity, proof)
        asked_at = self._tools.now()
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": _TARGETS[self._settings.type]}
        reply = await self._registry.ask(b"{}", headers, keys=session)
        return self._token(identity, reply, session, asked_at)

    async def _session(self, identity: str, proof: str | Keys) -> Keys:
        """A session of the identity's role, by the one way that is configured; never of another role."""
        settings = self._settings
        straight = settings.credentials == "webIdentity" and settings.role_arn in (None, identity)
        if straight and isinstance(proof, str):
            return await self._sts.with_web_identity(identity, proof, seconds=settings.duration_seconds)
        return await self._sts.assume(
            identity,
            await self._first_keys(proof),
            external_id=settings.external_id,
            seconds=settings.duration_seconds,
        )

    async def _first_keys(self, proof: str | Keys) -> Keys:
        """What the identity's role is assumed with."""
        settings = self._settings
        if not isinstance(proof, str):
            return proof
        if settings.role_arn is not None:
            return await self._sts.with_web_identity(settings.role_arn, proof, seconds=_SECONDS[0])
        url = settings.pod_identity_endpoint or POD_IDENTITY_ENDPOINT
        return await self._aws.pod_identity(self._tools, url, proof, timeout_seconds=settings.timeout_seconds)

    def _token(self, identity: str, reply: Reply, session: Keys, asked_at: float) -> Token:
        answer = read_json(reply, _Answer)
        data = answer.authorization_data if answer else []
        given = data[0] if isinstance(data, list) and data else data
        if isinstance(given, list):
            raise MintError(Problem.ISSUER_MALFORMED, "HTTP 200 without authorizationData")
        username, password = _user_and_password(given.authorization_token)
        token = make_token(
            self._tools,
            provider=self._name,
            username=username,
            password=password,
            asked_at=asked_at,
            reply=reply,
            lifetimes_seconds=(
                self._settings.duration_seconds if self._settings.ends_with_session else _PASSWORD_SECONDS,
            ),
            expiries=(given.expires_at, session.expires_at if self._settings.ends_with_session else None),
            default_lifetime_seconds=self._settings.default_lifetime,
        )
        if username != USERNAME:
            raise MintError(Problem.TOKEN_UNFIT, "for another user than AWS")
        place = _place(given.proxy_endpoint or "")
        _, account, _ = self._aws.role_parts(identity)
        if place is not None and (place["account"], place["region"]) != (account, self._region):
            raise MintError(Problem.TOKEN_UNFIT, "for another account or region")
        return token

    def _service(self, name: str, region: str, url: str | None) -> Service:
        settings = self._settings
        url = url or self._aws.endpoint(name, region=region, fips=settings.fips, dual_stack=settings.dual_stack)
        return self._aws.Service(self._tools, name, region, url, settings.timeout_seconds)


class EcrPublic(Ecr):
    """The same; the service, its one region and the shape of its answer follow from `type`."""

    SETTINGS: ClassVar[type[ProviderSettings]] = EcrPublicSettings


def _user_and_password(token: str) -> tuple[str, str]:
    """Of base64 of both with a colon between; empty where it is anything else."""
    try:
        username, _, password = base64.b64decode(token, validate=True).decode("ascii").partition(":")
    except ValueError:
        return "", ""
    return username, password


def _region(settings: EcrSettings) -> str:
    """The one that is configured, else that of the registries; "" where they name none, or several."""
    if settings.region or settings.type == "ecr-public":
        return settings.region or _PUBLIC_REGION
    regions = {place["region"] for place in map(_place, settings.registries) if place}
    return regions.pop() if len(regions) == 1 else ""


def _place(registry: str) -> re.Match[str] | None:
    """Account and region of a private registry, with or without a path; None of anything else."""
    return _HOST.fullmatch(registry.removeprefix("https://").partition("/")[0])


def _proof_problems(settings: EcrSettings) -> Iterator[str]:
    kind = settings.credentials
    yield from only_with(settings, kind, _ONLY_WITH)
    if kind == "static":
        yield from settings.access_key_id.problems("accessKeyId")
        yield from settings.secret_access_key.problems("secretAccessKey")
        if settings.session_token != KeySource():
            yield from settings.session_token.problems("sessionToken")
    else:
        yield from needs_token_file(settings)
    yield from needs_node_address("podIdentityEndpoint", settings.pod_identity_endpoint or POD_IDENTITY_ENDPOINT)


def _session_problems(settings: EcrSettings) -> Iterator[str]:
    from_session = settings.role_arn is not None or settings.session_token != KeySource()
    chained = settings.credentials == "podIdentity" or from_session
    least, most = _SECONDS[0], _CHAINED_SECONDS if chained else _SECONDS[1]
    if not least <= settings.duration_seconds <= most:
        why = ", as one role assumes the other" if chained else ""
        yield f"durationSeconds: must be from {least} to {most}{why}"
    if settings.role_arn is not None and not re.fullmatch(IDENTITY, settings.role_arn):
        yield "roleArn: must be the ARN of a role, such as arn:aws:iam::123456789012:role/first"
    if not _SESSION_NAME.fullmatch(settings.session_name):
        yield "sessionName: must be 2 to 64 letters, digits or _+=,.@-"
    if settings.external_id is not None and not _EXTERNAL_ID.fullmatch(settings.external_id):
        yield "externalId: must be 2 to 1224 letters, digits or _+=,.@:/-"
    if settings.external_id is not None and settings.credentials == "webIdentity" and settings.role_arn is None:
        yield "externalId: is sent by one role to another only; set roleArn, or remove it"


def _place_problems(settings: EcrSettings) -> Iterator[str]:
    region = _region(settings)
    if not region:
        yield "region: must be set, since the registries don't name one and the same"
    if settings.ecr_endpoint is None:  # with an endpoint of their own, operators may have registries of their own
        yield from _host_problems(settings, region)
    with needs_extra("aws"):
        from controller.providers import aws  # noqa: PLC0415 -- it imports botocore
    for key, service, place in (("region", settings.type, region), ("stsRegion", "sts", settings.sts_region or region)):
        if not _REGION.fullmatch(place):
            if place:
                yield f"{key}: {place!r} is no region of AWS"
            continue
        try:
            aws.endpoint(service, region=place, fips=settings.fips, dual_stack=settings.dual_stack)
        except aws.NoEndpoint:
            yield f"{key}: {place} has no endpoint of {service} with fips and dualStack as they are"


def _host_problems(settings: EcrSettings, region: str) -> Iterator[str]:
    """The password of one region is refused in another; and another name is a typing error, or somebody else's."""
    if settings.type == "ecr-public":
        if region != _PUBLIC_REGION:
            yield f"region: ECR Public is in {_PUBLIC_REGION} only"
        for host in set(settings.registries) - _PUBLIC_HOSTS:
            yield f"registries: {host!r} is not {' or '.join(sorted(_PUBLIC_HOSTS))}"
        return
    for host in settings.registries:
        place = _place(host)
        if place is None:
            yield f"registries: {host!r} is no registry of ECR, such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com"
        elif region and place["region"] != region:
            yield f"registries: {host!r} is not in {region}; configure one provider for each region"
