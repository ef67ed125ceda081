"""Amazon ECR and ECR Public: the role or user that the Secret names becomes a registry password.

Pages: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html,
https://docs.aws.amazon.com/AmazonECRPublic/latest/APIReference/API_GetAuthorizationToken.html

Request   POST to STS, for a session of the role: AssumeRoleWithWebIdentity with the projected token; or AssumeRole with
          keys of another role, from the EKS Pod Identity agent, the metadata service of an EC2 instance, or the
          environment or files that the configuration names. Keys that may be the identity's own are shown to
          GetCallerIdentity, and if they are, need no AssumeRole. Then POST to ECR, signed with that session or these
          keys: GetAuthorizationToken.
Response  200 {"authorizationData": [{"authorizationToken": base64 of AWS:password, "expiresAt": seconds since the
          epoch, "proxyEndpoint": URL}]}; from ECR Public the object alone, without endpoint. The session must be of
          the role in the annotation, and the endpoint of its account and our region.
Lifetime  `expiresAt`, 12 hours; and the end of a session, unless `endsWithSession` is false. Registries were seen to
          refuse a password whose session had ended (kubernetes/kubernetes#69141); AWS doesn't document it. A refresh
          too early costs three requests, one too late every pull.
Errors    by code in aws.py: {"__type": "namespace#Code"} of ECR, <Error><Code> of STS.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.providers.contract import SettingsType, Tools, needs_extra
from controller.providers.exchange import IssuerReply, malformed, read_answer
from controller.providers.proof import KeySource, with_proof
from controller.providers.settings import IssuerSettings, NodeUrl, ProofBy, Url, matching
from controller.providers.token import make_token

if TYPE_CHECKING:
    from controller.providers.aws import Keys, Principal, Service

_NAME = r"([!-~]+/)?[A-Za-z0-9_+=,.@-]{1,64}"
IDENTITY = rf"arn:aws[a-z-]*:iam::[0-9]{{12}}:(role|user)/{_NAME}"
"""The ARN of a role or user."""

USERNAME = "AWS"

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
_EXAMPLE_HOST = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
_RoleArn = Annotated[
    str,
    matching(
        rf"arn:aws[a-z-]*:iam::[0-9]{{12}}:role/{_NAME}",
        "must be the ARN of a role, such as arn:aws:iam::123456789012:role/first",
    ),
]
_SessionName = Annotated[str, matching(r"[A-Za-z0-9_+=,.@-]{2,64}", "must be 2 to 64 letters, digits or _+=,.@-")]
_ExternalId = Annotated[
    str, matching(r"[A-Za-z0-9_+=,.@:/-]{2,1224}", "must be 2 to 1224 letters, digits or _+=,.@:/-")
]

_POLICY_LENGTH = 2048
_PASSWORD_SECONDS = 12 * 3600
_SECONDS = (900, 43200)
_CHAINED_SECONDS = 3600
"""AWS ends a session that another session asked for after an hour at most."""


class _Settings(IssuerSettings, frozen=True, kw_only=True, rename="camel", tag_field="credentials"):
    """The configuration of `type: ecr`, whatever the credentials."""

    external_id: _ExternalId | None = None
    session_name: _SessionName = "pull-secret-updater"
    """What CloudTrail shows beside the role."""
    session_policy: Mapping[str, Any] | None = None
    """An IAM policy that the session of the identity's role is narrowed to."""
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

    @property
    def policy(self) -> str | None:
        """`session_policy` as STS takes it."""
        return None if self.session_policy is None else msgspec.json.encode(self.session_policy).decode()

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        chained = _is_chained(self)
        least, most = _SECONDS[0], _CHAINED_SECONDS if chained else _SECONDS[1]
        if not least <= self.duration_seconds <= most:
            why = ", as one role assumes the other" if chained else ""
            yield f"durationSeconds: must be from {least} to {most}{why}"
        policy = self.session_policy
        if policy is not None and ("Statement" not in policy or len(self.policy or "") > _POLICY_LENGTH):
            yield f"sessionPolicy: must be an IAM policy with a Statement, of at most {_POLICY_LENGTH:,} characters"
        yield from _place_problems(self)


class EcrWebIdentity(_Settings, frozen=True, kw_only=True, rename="camel", tag="webIdentity"):
    """The projected token gets the session from STS."""

    token_file: str
    proof: ProofBy = "either"
    audience: str | None = None
    """Of the projected token; None is sts.amazonaws.com."""
    role_arn: _RoleArn | None = None
    """A role to be first, with the projected token; it then assumes the identity's role."""

    @property
    def proof_audience(self) -> str:
        """Of the projected token."""
        return self.audience or "sts.amazonaws.com"

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        if self.external_id is not None and self.role_arn is None:
            yield "externalId: is only sent by one role to another; set roleArn, or remove it"
        yield from super().problems()


class EcrPodIdentity(_Settings, frozen=True, kw_only=True, rename="camel", tag="podIdentity"):
    """The EKS Pod Identity agent, or another endpoint for containers, gives keys for the projected token.

    That must be bound to a Pod, so no other proof is taken.
    """

    token_file: str
    audience: str | None = None
    """Of the projected token; None is pods.eks.amazonaws.com."""
    pod_identity_endpoint: NodeUrl | None = None
    """None is the agent on the node."""

    @property
    def proof_audience(self) -> str:
        """Of the projected token."""
        return self.audience or "pods.eks.amazonaws.com"


class EcrInstanceProfile(_Settings, frozen=True, kw_only=True, rename="camel", tag="instanceProfile"):
    """The metadata service of the EC2 instance gives keys of the instance's role."""

    metadata_endpoint: NodeUrl = "http://169.254.169.254"


class EcrStatic(_Settings, frozen=True, kw_only=True, rename="camel", tag="static"):
    """Keys of a user, or of a session of a role."""

    access_key_id: KeySource = KeySource()
    secret_access_key: KeySource = KeySource()
    session_token: KeySource | None = None

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        yield from self.access_key_id.problems("accessKeyId")
        yield from self.secret_access_key.problems("secretAccessKey")
        if self.session_token is not None:
            yield from self.session_token.problems("sessionToken")
        yield from super().problems()


class EcrPublicWebIdentity(EcrWebIdentity, frozen=True, kw_only=True, rename="camel", tag="webIdentity"):
    """The same for `type: ecr-public`."""

    registries: tuple[str, ...] = ("public.ecr.aws",)


class EcrPublicPodIdentity(EcrPodIdentity, frozen=True, kw_only=True, rename="camel", tag="podIdentity"):
    """The same for `type: ecr-public`."""

    registries: tuple[str, ...] = ("public.ecr.aws",)


class EcrPublicInstanceProfile(EcrInstanceProfile, frozen=True, kw_only=True, rename="camel", tag="instanceProfile"):
    """The same for `type: ecr-public`."""

    registries: tuple[str, ...] = ("public.ecr.aws",)


class EcrPublicStatic(EcrStatic, frozen=True, kw_only=True, rename="camel", tag="static"):
    """The same for `type: ecr-public`."""

    registries: tuple[str, ...] = ("public.ecr.aws",)


EcrSettings = EcrWebIdentity | EcrPodIdentity | EcrInstanceProfile | EcrStatic


class _Authorization(msgspec.Struct, frozen=True, rename="camel"):
    authorization_token: str
    expires_at: float | None = None
    proxy_endpoint: str | None = None


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    authorization_data: list[_Authorization] | _Authorization


class Ecr:
    """Mints with a session of the identity's role, or with keys of its user, and no other."""

    SETTINGS: ClassVar[SettingsType] = EcrSettings
    SHARES_TOKEN: ClassVar[bool] = True
    """A password is good for every registry of its region that the role may read, in any account."""

    def __init__(self, settings: EcrSettings, tools: Tools) -> None:
        with needs_extra("aws"):
            from controller.providers import aws  # noqa: PLC0415 -- it imports botocore

        self._aws = aws
        self._settings = settings
        self._tools = tools
        self._region = _region(settings)
        self._registry = self._service(settings.type, self._region, settings.ecr_endpoint)
        sts = self._service("sts", settings.sts_region or self._region, settings.sts_endpoint)
        self._sts = aws.Sts(sts, settings.session_name)

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        tools, who = self._tools, self._aws.principal(identity)
        match self._settings:
            case EcrWebIdentity() as web:
                return await with_proof(
                    lambda: tools.proof(web.proof_audience), lambda proof: self._with_web_identity(web, who, proof)
                )
            case EcrPodIdentity() as pod:
                return await with_proof(
                    lambda: tools.proof(pod.proof_audience), lambda proof: self._with_pod_identity(pod, who, proof)
                )
            case EcrInstanceProfile(metadata_endpoint=endpoint):
                return await self._with_keys(who, await self._aws.instance_profile(tools, endpoint))
            case EcrStatic() as static:
                return await with_proof(lambda: self._keys(static), lambda keys: self._with_keys(who, keys))

    async def check_proof(self) -> None:
        """See Provider."""
        match self._settings:
            case EcrWebIdentity() | EcrPodIdentity() as proven:
                await self._tools.proof(proven.proof_audience)
            case EcrInstanceProfile():
                pass
            case EcrStatic() as static:
                await self._keys(static)

    async def _with_web_identity(self, settings: EcrWebIdentity, role: Principal, proof: str) -> Token:
        first = settings.role_arn
        if first is None or first == role.arn:
            seconds, policy = settings.duration_seconds, settings.policy
            session = await self._sts.with_web_identity(role, proof, seconds=seconds, policy=policy)
            return await self._mint(role, session)
        keys = await self._sts.with_web_identity(self._aws.principal(first), proof, seconds=_SECONDS[0])
        return await self._assume(role, keys)

    async def _with_pod_identity(self, settings: EcrPodIdentity, role: Principal, proof: str) -> Token:
        url = settings.pod_identity_endpoint or "http://169.254.170.23/v1/credentials"
        return await self._with_keys(role, await self._aws.pod_identity(self._tools, settings, url, proof))

    async def _keys(self, settings: EcrStatic) -> Keys:
        key, secret = settings.access_key_id.read(), settings.secret_access_key.read()
        if settings.session_token is None:
            return self._aws.Keys(key, secret, None)
        return self._aws.Keys(key, secret, settings.session_token.read(), lifetime_seconds=settings.duration_seconds)

    async def _with_keys(self, who: Principal, keys: Keys) -> Token:
        """Mint with the keys themselves if they are the identity's own, else with what they may assume."""
        # Keys without a session token are a user's, so they are never those of a role. No keys can be narrowed.
        is_narrowed = self._settings.session_policy is not None
        if is_narrowed and who.kind == "user":
            raise MintError(Problem.REQUEST_REFUSED, "sessionPolicy narrows sessions of roles, and not keys of a user")
        may_be_own = not is_narrowed and (who.kind == "user" or keys.token is not None)
        if may_be_own and who.is_caller(await self._sts.caller(keys)):
            return await self._mint(who, keys)
        return await self._assume(who, keys)

    async def _assume(self, role: Principal, keys: Keys) -> Token:
        settings = self._settings
        session = await self._sts.assume(
            role,
            keys,
            external_id=settings.external_id,
            seconds=settings.duration_seconds,
            policy=settings.policy,
        )
        return await self._mint(role, session)

    async def _mint(self, who: Principal, keys: Keys) -> Token:
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": _TARGETS[self._settings.type]}
        reply = await self._registry.ask(b"{}", headers, keys=keys)
        return self._token(who, reply, keys)

    def _token(self, who: Principal, reply: IssuerReply, keys: Keys) -> Token:
        settings = self._settings
        data = read_answer(reply, _Answer, "authorizationData").authorization_data
        given = data[0] if isinstance(data, list) and data else data
        if isinstance(given, list):
            raise malformed(reply, "authorizationData")
        username, password = _user_and_password(given.authorization_token)
        token = make_token(
            self._tools,
            username=username,
            password=password,
            reply=reply,
            lifetimes_seconds=(_PASSWORD_SECONDS, keys.lifetime_seconds if settings.ends_with_session else None),
            expiries=(given.expires_at, keys.expires_at if settings.ends_with_session else None),
        )
        if username != USERNAME:
            raise MintError(Problem.TOKEN_UNFIT, "for another user than AWS")
        place = _place(given.proxy_endpoint or "")
        if place is not None and (place["account"], place["region"]) != (who.account, self._region):
            raise MintError(Problem.TOKEN_UNFIT, "for another account or region")
        return token

    def _service(self, name: str, region: str, url: str | None) -> Service:
        settings = self._settings
        url = url or self._aws.endpoint(name, region=region, fips=settings.fips, dual_stack=settings.dual_stack)
        return self._aws.Service(self._tools, name, region, url, settings)


class EcrPublic(Ecr):
    """The same; the service, its only region and the shape of its answer follow from `type`."""

    SETTINGS: ClassVar[SettingsType] = (
        EcrPublicWebIdentity | EcrPublicPodIdentity | EcrPublicInstanceProfile | EcrPublicStatic
    )


def _user_and_password(token: str) -> tuple[str, str]:
    """Decode base64 of user, colon and password; both are empty if it is anything else."""
    try:
        username, _, password = base64.b64decode(token, validate=True).decode("ascii").partition(":")
    except ValueError:
        return "", ""
    return username, password


def _is_chained(settings: _Settings) -> bool:
    """Whether another session asks for the session of the identity's role."""
    match settings:
        case EcrWebIdentity(role_arn=None) | EcrStatic(session_token=None):
            return False
        case _:
            return True


def _region(settings: _Settings) -> str:
    """The one that is configured, else that of the registries; "" if they name none, or several."""
    if settings.region or settings.type == "ecr-public":
        return settings.region or _PUBLIC_REGION
    regions = {place["region"] for place in map(_place, settings.registries) if place}
    return regions.pop() if len(regions) == 1 else ""


def _place(registry: str) -> re.Match[str] | None:
    """Account and region of a private registry, with or without a path; None if it is anything else."""
    return _HOST.fullmatch(registry.removeprefix("https://").partition("/")[0])


def _place_problems(settings: _Settings) -> Iterator[str]:
    region = _region(settings)
    if not region:
        yield "region: is needed, since the registries are not all in one region"
    if settings.ecr_endpoint is None:  # with an endpoint of their own, operators may have registries of their own
        yield from _host_problems(settings, region)
    with needs_extra("aws"):
        from controller.providers import aws  # noqa: PLC0415 -- it imports botocore
    for key, service, place in (("region", settings.type, region), ("stsRegion", "sts", settings.sts_region or region)):
        if not _REGION.fullmatch(place):
            if place:
                yield f"{key}: {place!r} is not a region of AWS"
            continue
        try:
            aws.endpoint(service, region=place, fips=settings.fips, dual_stack=settings.dual_stack)
        except aws.NoEndpoint:
            yield f"{key}: {place} has no endpoint of {service} for these fips and dualStack"


def _host_problems(settings: _Settings, region: str) -> Iterator[str]:
    """The password of one region is refused in another; and another name is a typing error, or another vendor's."""
    if settings.type == "ecr-public":
        if region != _PUBLIC_REGION:
            yield f"region: ECR Public is in {_PUBLIC_REGION} only"
        if settings.fips:
            yield "fips: ECR Public has no FIPS endpoint; remove it"
        for host in set(settings.registries) - _PUBLIC_HOSTS:
            yield f"registries: {host!r} is not {' or '.join(sorted(_PUBLIC_HOSTS))}"
        return
    for host in settings.registries:
        place = _place(host)
        if place is None:
            yield f"registries: {host!r} is not a registry of ECR, such as {_EXAMPLE_HOST}"
        elif region and place["region"] != region:
            yield f"registries: {host!r} is not in {region}; configure one provider for each region"
