"""The stand-in for AWS: STS, ECR, ECR Public and the EKS Pod Identity agent of one region, behind one address.

Roles trust ServiceAccounts, other roles and users; nobody else gets a session. Whoever has keys may ask whose they are.
Signatures are checked (sigv4.py), and so are their scope, the audience and subject of web identities, external IDs, and
the length of sessions. Responses have the original formats: XML with a namespace from STS, an array from ECR, an object
from ECR Public, plain text from an agent that refuses; ThrottlingException with status 400.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from testing import sigv4
from testing.tokens import Trust, UntrustedError
from testing.wire import Answer, Asked, Vendor

STS_AUDIENCE = "sts.amazonaws.com"
AGENT_AUDIENCE = "pods.eks.amazonaws.com"
AGENT_PATH = "/v1/credentials"

_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
_SERVICES = {
    "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken": "ecr",
    "SpencerFrontendService.GetAuthorizationToken": "ecr-public",
}
_DOMAINS = {"aws": "amazonaws.com", "aws-cn": "amazonaws.com.cn", "aws-eusc": "amazonaws.eu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role, with the principals that may assume it."""

    arn: str
    subjects: frozenset[str] = frozenset()
    """The ServiceAccounts that may, with a web identity or through the Pod Identity agent."""
    principals: frozenset[str] = frozenset()
    """The ARNs of the roles and users that may."""
    external_id: str | None = None
    may_pull: bool = True
    most_seconds: int = 43200


@dataclass(frozen=True, slots=True)
class Key:
    """The keys of a user or a session."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)
    principal: str
    """The ARN of the role or user."""
    expires_at: float | None
    policy: str | None = field(default=None, repr=False)
    """What a session was narrowed to, in JSON."""


class RefusedError(Exception):
    """A refusal, with its code. STS and ECR have different names for some."""

    def __init__(self, code: str, status: int = 400, *, in_xml: tuple[str, int] | None = None) -> None:
        super().__init__(code)
        self.in_json = (code, status)
        self.in_xml = in_xml or (code, status)


class Aws:
    """The whole state. A test may change all of it while it runs."""

    def __init__(
        self, *, region: str, web_identities: Trust, agent_identities: Trust, clock: Callable[[], float]
    ) -> None:
        self.region = region
        self.sts_region = region
        self.lifetime_seconds = 12 * 3600.0
        """The lifetime of registry tokens."""
        self.again = False
        """Return the newest token again."""
        self.minted: list[str] = []
        """Every registry password."""
        self.secrets: list[str] = []
        """Every secret key and session token."""
        self.session_of: str | None = None
        """A broken STS gives everyone a session of this role instead of the correct one."""
        self._web_identities = web_identities
        self._agent_identities = agent_identities
        self._clock = clock
        self.instance: Vendor | None = None
        """The metadata service of the instance that asks."""
        self.users: set[str] = set()
        """The ARNs of the users that may pull by themselves."""
        self._roles: dict[str, Role] = {}
        self._keys: dict[str, Key] = {}
        self._valid: dict[str, float] = {}  # password -> when it expires

    def add(self, role: Role) -> None:
        """Add a role."""
        self._roles[role.arn] = role

    def know(self, key: Key) -> None:
        """Accept requests that are signed with this key."""
        self._keys[key.access_key] = key
        self.secrets += [key.secret_key, *([key.token] if key.token else [])]

    def user_key(self, principal: str) -> Key:
        """New keys of a user, which don't expire."""
        return self._new_key("AKIA", principal, None, None)

    def accepts(self, username: str, password: str) -> bool:
        """Whether the region's registries accept this credential now."""
        return username == "AWS" and self._valid.get(password, 0.0) > self._clock()

    async def handle(self, asked: Asked) -> Answer:
        """See Vendor."""
        if asked.path == AGENT_PATH:
            return await self._agent(asked)
        if self.instance is not None and asked.path.startswith("/latest/"):
            return await self.instance.handle(asked)
        if asked.method != "POST" or asked.path != "/":
            return Answer(404)
        in_xml = asked.form() is not None
        try:
            return await (self._sts(asked) if in_xml else self._authorization(asked))
        except RefusedError as error:
            return _in_xml(*error.in_xml) if in_xml else _in_json(*error.in_json)

    async def _sts(self, asked: Asked) -> Answer:
        parameters = {name: values[-1] for name, values in (asked.form() or {}).items()}
        match parameters.get("Action"):
            case "AssumeRoleWithWebIdentity":
                return await self._with_web_identity(parameters)
            case "AssumeRole":
                return self._assume(asked, parameters)
            case "GetCallerIdentity":
                return self._caller(asked)
        raise RefusedError("InvalidAction")

    async def _with_web_identity(self, parameters: dict[str, str]) -> Answer:
        try:
            claims = await self._web_identities.claims(parameters.get("WebIdentityToken", ""))
        except UntrustedError as error:
            expired = "expired" in str(error).lower()
            raise RefusedError("ExpiredTokenException" if expired else "InvalidIdentityToken") from error
        role = self._roles.get(parameters.get("RoleArn", ""))
        if role is None or claims["sub"] not in role.subjects:
            raise RefusedError("AccessDenied", 403)
        return self._session("AssumeRoleWithWebIdentity", role, parameters, chained=False)

    def _assume(self, asked: Asked, parameters: dict[str, str]) -> Answer:
        key = self._signer(asked, "sts", self.sts_region)
        role = self._roles.get(parameters.get("RoleArn", ""))
        if role is None or key.principal not in role.principals or role.external_id != parameters.get("ExternalId"):
            raise RefusedError("AccessDenied", 403)
        return self._session("AssumeRole", role, parameters, chained=key.token is not None)

    def _caller(self, asked: Asked) -> Answer:
        key = self._signer(asked, "sts", self.sts_region)
        user = key.principal if key.token is None else _session_arn(key.principal, "somebodys-session")
        return Answer(
            200,
            f'<GetCallerIdentityResponse xmlns="{_NAMESPACE}"><GetCallerIdentityResult><Arn>{escape(user)}</Arn>'
            f"<UserId>AIDAEXAMPLE</UserId><Account>{user.split(':')[4]}</Account></GetCallerIdentityResult>"
            f"<ResponseMetadata><RequestId>{secrets.token_hex(16)}</RequestId></ResponseMetadata>"
            "</GetCallerIdentityResponse>".encode(),
            {"Content-Type": "text/xml"},
        )

    def _session(self, action: str, role: Role, parameters: dict[str, str], *, chained: bool) -> Answer:
        name, seconds = parameters.get("RoleSessionName", ""), int(parameters.get("DurationSeconds", "3600"))
        if parameters.get("Version") != "2011-06-15" or not re.fullmatch(r"[\w+=,.@-]{2,64}", name, re.ASCII):
            raise RefusedError("ValidationError")
        if not 900 <= seconds <= (3600 if chained else role.most_seconds):
            raise RefusedError("ValidationError")
        arn = self.session_of or role.arn
        policy = parameters.get("Policy")
        key = self._new_key("ASIA", arn, secrets.token_urlsafe(300), self._clock() + seconds, policy)
        user = _session_arn(arn, name)
        return Answer(
            200,
            f'<{action}Response xmlns="{_NAMESPACE}"><{action}Result><Credentials>'
            f"<AccessKeyId>{key.access_key}</AccessKeyId><SecretAccessKey>{key.secret_key}</SecretAccessKey>"
            f"<SessionToken>{key.token}</SessionToken><Expiration>{_rfc3339(key.expires_at)}</Expiration></Credentials>"
            f"<AssumedRoleUser><AssumedRoleId>AROAEXAMPLE:{name}</AssumedRoleId><Arn>{escape(user)}</Arn>"
            f"</AssumedRoleUser></{action}Result><ResponseMetadata><RequestId>{secrets.token_hex(16)}</RequestId>"
            f"</ResponseMetadata></{action}Response>".encode(),
            {"Content-Type": "text/xml"},
        )

    def _signer(self, asked: Asked, service: str, region: str) -> Key:
        """The principal that signed the request; raises RefusedError."""
        claim = sigv4.signed(asked)
        if claim is None:
            raise RefusedError("MissingAuthenticationTokenException", in_xml=("MissingAuthenticationToken", 403))
        key = self._keys.get(claim.access_key)
        if key is None or key.token != asked.headers.get("X-Amz-Security-Token"):
            raise RefusedError("UnrecognizedClientException", in_xml=("InvalidClientTokenId", 403))
        if (claim.service, claim.region) != (service, region) or not sigv4.is_right(
            asked, claim, key.secret_key, self._clock()
        ):
            raise RefusedError("InvalidSignatureException", in_xml=("SignatureDoesNotMatch", 403))
        if key.expires_at is not None and key.expires_at <= self._clock():
            raise RefusedError("ExpiredTokenException", in_xml=("ExpiredToken", 403))
        return key

    def _new_key(
        self, prefix: str, principal: str, token: str | None, expires_at: float | None, policy: str | None = None
    ) -> Key:
        access_key, secret_key = prefix + secrets.token_hex(8).upper(), secrets.token_urlsafe(30)
        self.know(key := Key(access_key, secret_key, token, principal, expires_at, policy))
        return key

    async def _authorization(self, asked: Asked) -> Answer:
        service = _SERVICES.get(asked.headers.get("X-Amz-Target", ""))
        if service is None or asked.headers.get("Content-Type") != "application/x-amz-json-1.1":
            raise RefusedError("UnknownOperationException")
        if service == "ecr-public" and self.region != "us-east-1":
            raise RefusedError("UnsupportedCommandException")
        key = self._signer(asked, service, self.region)
        role = self._roles.get(key.principal)
        may_pull = role.may_pull if role else key.principal in self.users
        if not may_pull or (key.policy is not None and f"{service}:GetAuthorizationToken" not in key.policy):
            raise RefusedError("AccessDeniedException")
        if not self.again or not self.minted:
            payload = json.dumps({"payload": secrets.token_urlsafe(600), "version": "2", "type": "DATA_KEY"})
            self.minted.append(base64.b64encode(payload.encode()).decode())
            self._valid[self.minted[-1]] = self._clock() + self.lifetime_seconds
        token = base64.b64encode(f"AWS:{self.minted[-1]}".encode()).decode()
        ends = self._valid[self.minted[-1]]
        partition, account = re.split(r":iam::|:", key.principal.removeprefix("arn:"))[:2]
        host = f"{account}.dkr.ecr.{self.region}.{_DOMAINS.get(partition, 'amazonaws.com')}"
        if service == "ecr-public":
            body = f'{{"authorizationData":{{"authorizationToken":"{token}","expiresAt":{int(ends)}}}}}'
        else:
            body = (
                f'{{"authorizationData":[{{"authorizationToken":"{token}","expiresAt":{ends / 1e9:.12f}E9,'
                f'"proxyEndpoint":"https://{host}"}}]}}'
            )
        return Answer(200, body.encode(), {"Content-Type": "application/x-amz-json-1.1"})

    async def _agent(self, asked: Asked) -> Answer:
        if asked.method != "GET":
            return Answer(405)
        try:
            claims = await self._agent_identities.claims(asked.headers.get("Authorization", ""))
        except UntrustedError as error:
            return _in_text("ExpiredTokenException" if "expired" in str(error).lower() else "InvalidTokenException")
        role = next((role for role in self._roles.values() if claims["sub"] in role.subjects), None)
        if role is None:
            return _in_text("ResourceNotFoundException")
        key = self._new_key("ASIA", role.arn, secrets.token_urlsafe(300), self._clock() + 6 * 3600)
        answer = {"AccessKeyId": key.access_key, "SecretAccessKey": key.secret_key, "Token": key.token}
        answer |= {"AccountId": role.arn.split(":")[4], "Expiration": _rfc3339(key.expires_at)}
        return Answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})


def _session_arn(role: str, name: str) -> str:
    partition, account, role_name = re.split(r":iam::|:role/", role.removeprefix("arn:"))
    return f"arn:{partition}:sts::{account}:assumed-role/{role_name.rpartition('/')[2]}/{name}"


def _in_json(code: str, status: int) -> Answer:
    message = "Message" if code.startswith("Access") else "message"  # the original has both
    body = json.dumps({"__type": f"com.amazonaws.ecr#{code}", message: "refused by the stand-in"})
    return Answer(status, body.encode(), {"Content-Type": "application/x-amz-json-1.1"})


def _in_xml(code: str, status: int) -> Answer:
    body = (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code>'
        f"<Message>refused by the stand-in</Message></Error><RequestId>{secrets.token_hex(16)}</RequestId>"
        "</ErrorResponse>"
    )
    return Answer(status, body.encode(), {"Content-Type": "text/xml"})


def _in_text(code: str) -> Answer:
    body = f"[{secrets.token_hex(16)}]: ({code}): refused by the stand-in, fault: client\n"
    return Answer(400, body.encode(), {"Content-Type": "text/plain; charset=utf-8"})


def _rfc3339(instant: float | None) -> str:
    return datetime.fromtimestamp(instant or 0.0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
