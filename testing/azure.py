"""A stand-in for Azure: Entra's token endpoint, a node's metadata service and a container registry's own exchange.

One vendor (see wire.py) serves all three, at different paths. It verifies the issuer, audience and subject of federated
assertions, client secrets, which identities the node has, and that the registry gets an Entra token.

Pages: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow,
https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token and
https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md
"""

import re
from collections.abc import Callable
from typing import Any

import jwt

from testing.tokens import SigningKey, Trust, UntrustedError
from testing.wire import Answer, Asked, in_json

CONTROLLER = "system:serviceaccount:pull-secret-updater:controller"
AUDIENCE = "api://AzureADTokenExchange"
"""The audience that a ServiceAccount token must have."""
TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
CLIENT = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
REGISTRY = "team.azurecr.io"
RESOURCE = "https://containerregistry.azure.net"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_ENTRA = re.compile(r"/([^/]+)/oauth2/v2\.0/token")
_ENTRA_SECONDS = 3599


class _Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Azure:
    """A test may change everything public between requests."""

    def __init__(
        self,
        clock: Callable[[], float],
        trust: Trust,
        *,
        registry: str = REGISTRY,
        resource: str = RESOURCE,
        subject: str = CONTROLLER,
        key: SigningKey | None = None,
    ) -> None:
        self.lifetime_seconds = 3 * 3600.0
        """The lifetime of a registry's refresh token."""
        self.access_seconds = 75 * 60.0
        """The lifetime of a registry's access token."""
        self.again = False
        self.minted: list[str] = []
        self.registry = registry
        self.registries: set[str] = set()
        """Further ones, behind the same address."""
        self.resource = resource
        self.federated = {CLIENT: subject}
        """By client ID: the subject that its federated credential names."""
        self.secrets: dict[str, str] = {}
        """By client ID."""
        self.certificates: dict[str, tuple[str, Any]] = {}
        """By client ID: the thumbprint of a certificate, as the claim x5t#S256 has it, and its public key."""
        self.node_identities = {"e0c3a1d2-0000-4000-8000-00000000c0de"}
        """Client IDs of the identities assigned to the node. A request without `client_id` gets any of them."""
        self.pullers = {CLIENT, *self.node_identities}
        """Client IDs with the role AcrPull."""
        self._clock = clock
        self._trust = trust
        self._key = key or SigningKey()
        self._entra: dict[str, dict[str, Any]] = {}
        self._assertions: set[str] = set()
        self._refresh: dict[str, dict[str, Any]] = {}
        self._latest: dict[str, str] = {}

    @property
    def canary(self) -> str:
        """A string that is in every token minted here and nowhere else."""
        return self._key.canary

    def whose(self, token: str, registry: str | None = None) -> str | None:
        """The client ID of a refresh token of a registry that is still valid; a registry calls this."""
        claims = self._refresh.get(token)
        is_valid = claims and claims["exp"] > self._clock() and claims["aud"] == (registry or self.registry)
        return str(claims["appid"]) if claims and is_valid else None

    async def handle(self, asked: Asked) -> Answer:
        """See wire.Vendor."""
        entra = _ENTRA.fullmatch(asked.path)
        try:
            match asked.method, asked.path:
                case "POST", _ if entra:
                    return await self._token(asked, entra[1])
                case "GET", "/metadata/identity/oauth2/token":
                    return self._metadata(asked)
                case "GET", "/v2/":
                    return self._challenge(asked)
                case "POST", "/oauth2/exchange":
                    return self._exchange(asked)
                case "POST", "/oauth2/token":
                    return self._narrow(asked)
        except _Refused as refused:
            return refused.answer
        return registry_error(404, "NOT_FOUND")

    async def _token(self, asked: Asked, tenant: str) -> Answer:
        form = _single(asked)
        if form is None or form.get("grant_type") != "client_credentials":
            raise _Refused(entra_error("unsupported_grant_type", 70003))
        if tenant != TENANT:
            raise _Refused(entra_error("invalid_request", 90002))
        client = form.get("client_id", "")
        if client not in {*self.federated, *self.secrets, *self.certificates}:
            raise _Refused(entra_error("unauthorized_client", 700016))
        if form.get("scope") != f"{self.resource}/.default":
            raise _Refused(entra_error("invalid_resource", 500011))
        if "client_secret" in form:
            if form["client_secret"] != self.secrets.get(client):
                raise _Refused(entra_error("invalid_client", 7000215, status=401))
        elif client in self.certificates and self._is_of_certificate(form):
            self._verify_certificate(form, client, asked.url)
        else:
            await self._verify(form, client)
        token = self._entra_token(client)
        times = {"expires_in": _ENTRA_SECONDS, "ext_expires_in": _ENTRA_SECONDS}
        return in_json(200, {"token_type": "Bearer", **times, "access_token": token})

    @staticmethod
    def _is_of_certificate(form: dict[str, str]) -> bool:
        try:
            return "x5t#S256" in jwt.get_unverified_header(form.get("client_assertion", ""))
        except jwt.PyJWTError:
            return False

    def _verify_certificate(self, form: dict[str, str], client: str, url: str) -> None:
        """As https://learn.microsoft.com/entra/identity-platform/certificate-credentials has it."""
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise _Refused(entra_error("invalid_request", 900144))
        assertion, (thumbprint, key) = form["client_assertion"], self.certificates[client]
        options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
        options["require"] = ["aud", "iss", "sub", "jti", "nbf", "exp"]
        try:
            if jwt.get_unverified_header(assertion)["x5t#S256"] != thumbprint:
                raise jwt.InvalidKeyError
            claims = jwt.decode(assertion, key, algorithms=["PS256"], audience=url, issuer=client, options=options)
        except jwt.PyJWTError as error:
            raise _Refused(entra_error("invalid_client", 700027, status=401)) from error
        if not claims["nbf"] <= self._clock() < claims["exp"] or claims["exp"] - claims["nbf"] > 600:
            raise _Refused(entra_error("invalid_client", 700024, status=401))
        if claims["sub"] != client or claims["jti"] in self._assertions:
            raise _Refused(entra_error("invalid_client", 700027, status=401))
        self._assertions.add(claims["jti"])

    async def _verify(self, form: dict[str, str], client: str) -> None:
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise _Refused(entra_error("invalid_request", 900144))
        try:
            claims = await self._trust.claims(form.get("client_assertion", ""))
        except UntrustedError as error:
            reason = str(error).lower()
            number = 700024 if "expired" in reason else 700212 if "audience" in reason else 700211
            raise _Refused(entra_error("invalid_client", number, status=401)) from error
        if claims["sub"] != self.federated.get(client):
            raise _Refused(entra_error("invalid_request", 700213))

    def _metadata(self, asked: Asked) -> Answer:
        query = {key: values[0] for key, values in asked.parameters().items()}
        if asked.headers.get("Metadata") != "true" or "X-Forwarded-For" in asked.headers:
            return in_json(400, {"error": "bad_request", "error_description": "Required metadata header not specified"})
        if query.get("api-version") != "2018-02-01":
            return in_json(400, {"error": "bad_request", "error_description": "Bad api-version"})
        if query.get("resource", "").rstrip("/") != self.resource:
            return in_json(400, {"error": "invalid_resource", "error_description": "AADSTS500011"})
        client = query.get("client_id") or min(self.node_identities)
        if client not in self.node_identities:
            return in_json(400, {"error": "invalid_request", "error_description": "Identity not found"})
        token, now = self._entra_token(client), int(self._clock())
        numbers = {"expires_in": "86399", "expires_on": str(now + 86399), "not_before": str(now)}
        named = {"access_token": token, "client_id": client, "resource": query["resource"], "token_type": "Bearer"}
        return in_json(200, named | numbers)

    def _challenge(self, asked: Asked) -> Answer:
        del asked
        realm = f'Bearer realm="https://{self.registry}/oauth2/token",service="{self.registry}"'
        return registry_error(401, "UNAUTHORIZED", WWW_Authenticate=realm)

    def _exchange(self, asked: Asked) -> Answer:
        form = _single(asked)
        registry = form.get("service", "") if form else ""
        if (
            form is None
            or form.get("grant_type") != "access_token"
            or registry not in {self.registry, *self.registries}
        ):
            raise _Refused(registry_error(400, "BAD_REQUEST"))
        entra = self._entra.get(form.get("access_token", ""))
        if entra is None or entra["exp"] <= self._clock() or form.get("tenant", entra["tid"]) != entra["tid"]:
            raise _Refused(registry_error(401, "UNAUTHORIZED"))
        if entra["appid"] not in self.pullers:
            raise _Refused(registry_error(401, "UNAUTHORIZED"))
        if not self.again or registry not in self._latest:
            self._latest[registry] = self._refresh_token(entra, registry)
        return in_json(
            200, {"refresh_token": self._latest[registry]}, x_ms_ratelimit_remaining_calls_per_second="166.616667"
        )

    def _narrow(self, asked: Asked) -> Answer:
        form = asked.form() or {}
        scopes = form.pop("scope", [])
        given = {name: values[0] for name, values in form.items() if len(values) == 1}
        claims = self._refresh.get(given.get("refresh_token", ""))
        if given.get("grant_type") != "refresh_token" or not scopes or any("*" in scope for scope in scopes):
            raise _Refused(registry_error(400, "BAD_REQUEST"))
        if claims is None or claims["exp"] <= self._clock() or given.get("service") != claims["aud"]:
            raise _Refused(registry_error(401, "UNAUTHORIZED"))
        access = [dict(zip(("type", "name", "actions"), scope.split(":"), strict=True)) for scope in scopes]
        narrowed = {**claims, "exp": int(self._clock() + self.access_seconds), "grant_type": "access_token"}
        token = self._key.sign({**narrowed, "access": access})
        self._refresh[token] = narrowed
        self.minted.append(token)
        return in_json(200, {"access_token": token})

    def _entra_token(self, client: str) -> str:
        now = int(self._clock())
        claims = {"aud": self.resource, "iss": f"https://sts.windows.net/{TENANT}/", "iat": now, "nbf": now}
        claims |= {"exp": now + _ENTRA_SECONDS, "appid": client, "tid": TENANT}
        token = self._key.sign(claims)
        self._entra[token] = claims
        self.minted.append(token)
        return token

    def _refresh_token(self, entra: dict[str, Any], registry: str) -> str:
        now = int(self._clock())
        claims = {
            "sub": entra["appid"],
            "nbf": now - 900,
            "exp": int(now + self.lifetime_seconds),
            "iat": now,
            "iss": "Azure Container Registry",
            "aud": registry,
            "version": "1.0",
            "grant_type": "refresh_token",
            "appid": entra["appid"],
            "tenant": entra["tid"],
            "permissions": {"Actions": ["read"], "NotActions": None},
            "roles": [],
        }
        token = self._key.sign(claims)
        self._refresh[token] = claims
        self.minted.append(token)
        return token


def entra_error(error: str, number: int | None = None, *, status: int = 400) -> Answer:
    """A refusal by Entra."""
    description = f"AADSTS{number}: as scripted\r\nTrace ID: 0\r\nCorrelation ID: 0"
    numbers = [] if number is None else [number]
    ids = {"timestamp": "2026-01-02 03:04:05Z", "trace_id": "0", "correlation_id": "0"}
    return in_json(status, {"error": error, "error_description": description, "error_codes": numbers, **ids})


def registry_error(status: int, code: str, **headers: str) -> Answer:
    """A refusal by the registry."""
    text = "authentication required, visit https://aka.ms/acr/authorization for more information."
    return in_json(status, {"errors": [{"code": code, "message": text, "detail": None}]}, **headers)


def _single(asked: Asked) -> dict[str, str] | None:
    """The parameters of a form in which each is given once; None for anything else."""
    form = asked.form()
    if form is None or any(len(values) > 1 for values in form.values()):
        return None
    return {key: values[0] for key, values in form.items()}
