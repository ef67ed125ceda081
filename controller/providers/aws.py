"""What AWS asks of every client: signed requests, sessions of roles, and what its error codes mean.

botocore knows the partitions and the signature (Signature Version 4); it sends nothing and reads no setting. Its own
clients and parsers stay out: they would open connections of their own, and their debug log holds answers and tokens.

Pages: https://docs.aws.amazon.com/STS/latest/APIReference/ and
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import EndpointProviderError
from botocore.loaders import Loader

from controller.core.errors import MintError, Problem
from controller.providers.contract import Tools
from controller.providers.exchange import (
    IssuerReply,
    ask,
    is_sendable,
    malformed,
    read_answer,
    read_json,
    refusal,
    stale,
)
from controller.providers.settings import ProviderSettings
from controller.providers.token import rfc3339

_PRINCIPAL = re.compile(r"arn:(aws[a-z-]*):iam::([0-9]{12}):(role|user)/(?:[!-~]+/)?([A-Za-z0-9_+=,.@-]{1,64})")
"""Partition, account, kind and name; the path before the name of a role is not part of its sessions' ARN."""

_METADATA_TOKEN = re.compile(rb"[A-Za-z0-9+/=_-]{1,1024}")
_ROLE_NAME = re.compile(rb"[A-Za-z0-9_+=,.@-]{1,64}")
"""An instance has one role at most."""
_STS_VERSION = "2011-06-15"
_CODE = re.compile(r"[A-Za-z.]{3,64}")
"""An error code may be logged: words of AWS, with no room for a token."""

_STALE = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "InvalidIdentityToken", "InvalidTokenException"),
        *("InvalidClientTokenId", "UnrecognizedClientException"),  # keys that were rotated since they were read
    }
)
_THROTTLES = frozenset(
    {
        *("Throttling", "ThrottlingException", "ThrottledException", "EC2ThrottledException"),
        *("RequestThrottled", "RequestThrottledException", "TooManyRequestsException", "RequestLimitExceeded"),
        *("BandwidthLimitExceeded", "LimitExceededException", "SlowDown", "ProvisionedThroughputExceededException"),
    }
)
_UNAVAILABLE = frozenset(
    {
        *("RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete", "TransactionInProgressException"),
        *("ServerException", "InternalFailure", "InternalServerException", "ServiceUnavailable"),
        "ServiceUnavailableException",
    }
)
_REFUSED = frozenset(
    {
        *("AccessDenied", "AccessDeniedException", "IDPRejectedClaim", "ResourceNotFoundException"),
        *("InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature", "RequestExpired"),
        *("MissingAuthenticationToken", "MissingAuthenticationTokenException", "OptInRequired"),
    }
)
_MALFORMED_REQUEST = frozenset(
    {
        *("ValidationError", "ValidationException", "InvalidParameterException", "InvalidParameterValue"),
        *("MalformedPolicyDocument", "PackedPolicyTooLarge", "RegionDisabledException", "UnsupportedCommandException"),
    }
)
_PROBLEMS: Mapping[str, Problem] = {
    **dict.fromkeys(_STALE | _REFUSED, Problem.MINT_REFUSED),
    **dict.fromkeys(_THROTTLES, Problem.ISSUER_THROTTLES),
    **dict.fromkeys(_UNAVAILABLE, Problem.ISSUER_UNAVAILABLE),
    **dict.fromkeys(_MALFORMED_REQUEST, Problem.REQUEST_REFUSED),
    "IDPCommunicationError": Problem.CLUSTER_ISSUER_UNREACHABLE,
}
"""By code, and not by status: ThrottlingException comes with 400, and so does IDPCommunicationError."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What requests are signed with; the names are those that botocore's signer expects."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)
    expires_at: float | None = None
    """By the clock of AWS; None if the answer doesn't say."""
    lifetime_seconds: float | None = field(default=None, repr=False)
    """What they live for at most, from now; None if nothing bounds it but `expires_at`."""


class NoEndpoint(Exception):
    """The region has no such endpoint."""


def endpoint(service: str, *, region: str, fips: bool, dual_stack: bool) -> str:
    """Where a service is. Raises NoEndpoint."""
    try:
        url: str = _rules(service).resolve_endpoint(Region=region, UseFIPS=fips, UseDualStack=dual_stack).url
    except EndpointProviderError as error:
        raise NoEndpoint(service) from error
    return url


@functools.cache
def _rules(service: str) -> EndpointProvider:
    """The rules for the addresses of a service, as botocore ships them."""
    # The default search path begins with ~/.aws/models, where anyone may have left other rules.
    data = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    return EndpointProvider(data.load_service_model(service, "endpoint-rule-set-1"), data.load_data("partitions"))


@dataclass(frozen=True, slots=True)
class Service:
    """One service of AWS in one region."""

    tools: Tools
    name: str
    """As it is signed for."""
    region: str
    url: str
    settings: ProviderSettings

    async def ask(self, body: bytes, headers: Mapping[str, str], *, keys: Keys | None) -> IssuerReply:
        """POST a request, signed unless `keys` is None. Raises MintError, and StaleProof, for all but a 200."""
        url = f"{self.url.rstrip('/')}/"
        signature = self._signature(url, body, headers, keys) if keys else {}
        reply = await ask(self.tools, "POST", url, headers={**headers, **signature}, body=body)
        if reply.status != 200:
            raise failure(reply, self.tools)
        return reply

    def _signature(self, url: str, body: bytes, headers: Mapping[str, str], keys: Keys) -> dict[str, str]:
        """The headers that sign a request. SigV4Auth.add_auth does the same by the system's clock, and logs it all."""
        timestamp = dt.datetime.fromtimestamp(self.tools.now(), dt.UTC).strftime(SIGV4_TIMESTAMP)
        ours = {"X-Amz-Date": timestamp, **({"X-Amz-Security-Token": keys.token} if keys.token else {})}
        request = AWSRequest("POST", url, headers={**headers, **ours}, data=body)
        request.context["timestamp"] = timestamp
        signer = SigV4Auth(keys, self.name, self.region)
        signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
        signed = signer.signed_headers(signer.headers_to_sign(request))
        scope = signer.scope(request)
        authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={signed}, Signature={signature}"
        return {**ours, "Authorization": authorization}


@dataclass(frozen=True, slots=True)
class Principal:
    """An IAM role or user."""

    arn: str
    partition: str
    account: str
    kind: str
    """`role` or `user`."""
    name: str

    def session_arn(self, session_name: str) -> str:
        """The ARN of a role's session."""
        return f"arn:{self.partition}:sts::{self.account}:assumed-role/{self.name}/{session_name}"

    def is_caller(self, arn: str) -> bool:
        """Whether the ARN, as STS names whoever asks, is this user's, or that of any session of this role."""
        return arn == self.arn if self.kind == "user" else arn.startswith(self.session_arn(""))


def principal(arn: str) -> Principal:
    """The role or user of that ARN. Raises MintError."""
    if (match := _PRINCIPAL.fullmatch(arn)) is None:
        raise MintError(Problem.REQUEST_REFUSED, "the identity is not the ARN of a role or user")
    partition, account, kind, name = match.groups()
    return Principal(arn, partition, account, kind, name)


@dataclass(frozen=True, slots=True)
class Sts:
    """Sessions of roles. Each is checked to be of the very role that was asked for."""

    service: Service
    session_name: str

    async def caller(self, keys: Keys) -> str:
        """The ARN of whoever has `keys`; everyone may ask that of STS. Raises MintError."""
        reply = await self._ask({"Action": "GetCallerIdentity"}, keys)
        root = _xml(reply)
        if root is None or not (arn := root.findtext("{*}GetCallerIdentityResult/{*}Arn")):
            raise malformed(reply, "an ARN")
        return arn

    async def with_web_identity(self, role: Principal, token: str, *, seconds: int, policy: str | None = None) -> Keys:
        """A session of `role`, which trusts the issuer and subject of `token`; no wider than `policy`.

        Raises MintError.
        """
        more = {"WebIdentityToken": token, **({"Policy": policy} if policy else {})}
        return await self._session("AssumeRoleWithWebIdentity", role, more, seconds, keys=None)

    async def assume(
        self, role: Principal, keys: Keys, *, external_id: str | None, seconds: int, policy: str | None = None
    ) -> Keys:
        """A session of `role`, which trusts whoever has `keys`; no wider than `policy`. Raises MintError."""
        more = {"ExternalId": external_id, "Policy": policy}
        given = {name: value for name, value in more.items() if value}
        return await self._session("AssumeRole", role, given, seconds, keys=keys)

    async def _session(
        self, action: str, role: Principal, more: Mapping[str, str], seconds: int, *, keys: Keys | None
    ) -> Keys:
        if role.kind != "role":
            raise MintError(Problem.IDENTITY_UNKNOWN, "the configured credentials are no keys of this user")
        form = {"Action": action, "RoleArn": role.arn, "RoleSessionName": self.session_name}
        reply = await self._ask({**form, **more, "DurationSeconds": str(seconds)}, keys)
        return _session_keys(reply, f"{{*}}{action}Result", role.session_arn(self.session_name), seconds)

    async def _ask(self, form: Mapping[str, str], keys: Keys | None) -> IssuerReply:
        body = urllib.parse.urlencode({**form, "Version": _STS_VERSION}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        return await self.service.ask(body, headers, keys=keys)


def _session_keys(reply: IssuerReply, result: str, session: str, seconds: int) -> Keys:
    """What STS gave, if it is for the session of that ARN. Raises MintError."""
    root = _xml(reply)
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
    values = [root.findtext(f"{result}/{{*}}Credentials/{{*}}{name}") if root is not None else "" for name in names]
    access_key, secret_key, token, expiration = (value or "" for value in values)
    if root is None or not all((access_key, secret_key, is_sendable(token), expiration)):
        raise malformed(reply, "the keys of a session")
    if root.findtext(f"{result}/{{*}}AssumedRoleUser/{{*}}Arn") != session:
        raise MintError(Problem.TOKEN_UNFIT, "the session is for another role")
    return Keys(access_key, secret_key, token, expires_at=rfc3339(expiration), lifetime_seconds=seconds)


class _NodesKeys(msgspec.Struct, frozen=True, rename="pascal"):
    access_key_id: str
    secret_access_key: str
    token: str
    expiration: str | None = None


class _KeysState(msgspec.Struct, frozen=True, rename="pascal"):
    code: str


async def pod_identity(tools: Tools, settings: ProviderSettings, url: str, token: str) -> Keys:
    """The keys that the EKS Pod Identity agent, or another endpoint for containers, has for us. Raises MintError."""
    headers = {"Accept": "application/json", "Authorization": token}  # no "Bearer"
    reply = await ask(tools, "GET", url, headers=headers)
    if reply.status != 200:
        raise failure(reply, tools)
    return _nodes_keys(reply)


async def instance_profile(tools: Tools, endpoint: str) -> Keys:
    """The keys that an EC2 instance has by its profile, from its metadata service (IMDSv2). Raises MintError.

    Page: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
    """
    latest = f"{endpoint.rstrip('/')}/latest"
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    session = await _from_instance(tools, "PUT", f"{latest}/api/token", ttl, _METADATA_TOKEN)
    headers = {"X-aws-ec2-metadata-token": session.body.decode()}
    profiles = f"{latest}/meta-data/iam/security-credentials/"
    role = (await _from_instance(tools, "GET", profiles, headers, _ROLE_NAME)).body.decode()
    reply = await _from_instance(tools, "GET", profiles + role, headers)
    state = read_answer(reply, _KeysState, "keys").code
    if state != "Success":
        raise refusal(reply, tools, problem=Problem.MINT_REFUSED, code=state if _CODE.fullmatch(state) else "")
    return _nodes_keys(reply)


async def _from_instance(
    tools: Tools, method: str, url: str, headers: Mapping[str, str], expected: re.Pattern[bytes] | None = None
) -> IssuerReply:
    reply = await ask(tools, method, url, headers=headers)
    if reply.status != 200:
        raise refusal(reply, tools, code="instance metadata")
    if expected is not None and not expected.fullmatch(reply.body):
        raise malformed(reply, "an answer of an instance's metadata service")
    return reply


def _nodes_keys(reply: IssuerReply) -> Keys:
    keys = read_answer(reply, _NodesKeys, "keys")
    if not all((keys.access_key_id, keys.secret_access_key, is_sendable(keys.token))):
        raise malformed(reply, "keys")
    return Keys(keys.access_key_id, keys.secret_access_key, keys.token, expires_at=rfc3339(keys.expiration))


class _Error(msgspec.Struct, frozen=True):
    code: str = msgspec.field(name="__type", default="")


def failure(reply: IssuerReply, tools: Tools) -> MintError:
    """The error of an answer that isn't a 200, by its code if that is known, else by its status."""
    code, message = _code_and_message(reply)
    if code == "InvalidIdentityToken" and "verification key" in message:
        # "Couldn't retrieve verification key from your identity provider": the same fault as IDPCommunicationError.
        return refusal(reply, tools, problem=Problem.CLUSTER_ISSUER_UNREACHABLE, code=code)
    if code in _STALE:
        return stale(reply, tools, code=code)
    return refusal(reply, tools, problem=_PROBLEMS.get(code), code=code)


def _code_and_message(reply: IssuerReply) -> tuple[str, str]:
    """The code in one of three dialects, or ""; and the message, which is only compared and never shown."""
    code = message = ""
    if (root := _xml(reply)) is not None:  # STS
        code, message = root.findtext(".//{*}Error/{*}Code") or "", root.findtext(".//{*}Error/{*}Message") or ""
    elif error := read_json(reply, _Error):  # ECR, in the body
        code = error.code
    elif named := re.search(rb"\(([A-Za-z]{3,64})\):", reply.body):  # the agent: `[request id]: (Code): text`
        code = named[1].decode()
    code = code or reply.headers.get("x-amzn-ErrorType", "")
    code = code.rpartition("#")[2].partition(":")[0]  # namespace#Code:uri
    return (code if _CODE.fullmatch(code) else ""), message


def _xml(reply: IssuerReply) -> ET.Element | None:
    """The document; None if the body isn't XML, or has a DTD, through which XML can grow without bound."""
    if b"<!" in reply.body or b"\0" in reply.body:  # the second for UTF-16, in which a DTD looks different
        return None
    try:
        return ET.fromstring(reply.body)  # noqa: S314 -- at most 64 KiB, and no DTD
    except (ET.ParseError, ValueError, LookupError):  # the last two for encodings
        return None
