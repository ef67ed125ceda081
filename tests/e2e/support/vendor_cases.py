"""One maker for each type of provider: its stand-in, its registry, and the configuration that finds both.

Each verifies what proves who asks, on a way of its own: the cluster's ServiceAccount token, or a key in a file.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from testing import azure as entra
from testing import google as gcp
from testing.aws import AGENT_AUDIENCE, AGENT_PATH, STS_AUDIENCE, Aws, Role
from testing.behaviour import Behaviour
from testing.crusoe import Crusoe
from testing.exchange import AUDIENCE, CONTROLLER, Issuer
from testing.github import Github
from testing.mounted import NAME, NAMESPACE
from testing.oauth import TokenExchange
from testing.quay import Quay
from testing.registry import Registry
from testing.tokens import PublishedKeys
from testing.wire import Answer, Asked, Servers, Vendor, Wire
from tests.e2e.support import kubelet
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.observer import Secret
from tests.e2e.support.tenant import new_identity

LIFE_SECONDS = 12
"""Of every token but those of `ecr-keys` and `acr-two`."""
Admits = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One configured provider, and an identity that it serves."""

    name: str
    """Of the provider in the configuration; for one of each type it is the type."""
    settings: Mapping[str, Any]
    """All but `registries`, which is its host unless there are several."""
    identity: str
    username: str
    host: str
    """Of the registry that takes its tokens."""
    minted: list[str] = field(repr=False)
    """What the vendor handed out so far."""
    named: bool = False
    """The annotation `provider` has to name it, since the identity's shape doesn't tell."""

    def credential(self, secret: Secret) -> tuple[str, str] | None:
        """User and password for its registry, as the kubelet reads them, once there is one of the vendor's tokens."""
        user, password = kubelet.credentials(secret).get(self.host, ("", ""))
        return (user, password) if password in self.minted else None


@dataclass(frozen=True, slots=True)
class Ground:
    """What every stand-in needs to stand on."""

    cluster: Cluster
    servers: Servers
    directory: Path

    def trust(self, audience: str) -> PublishedKeys:
        """In the cluster's ServiceAccount tokens for that audience."""
        return PublishedKeys(self.cluster.api.get, audience=audience)

    def token_file(self, audience: str) -> str:
        """A file with a token of the controller's ServiceAccount, as a kubelet projects it."""
        token = self.cluster.service_account_token(NAMESPACE, NAME, audience=audience)
        return self.key_file(f"token-{len(list(self.directory.iterdir()))}", token)

    def key_file(self, name: str, content: str) -> str:
        """A file as a mounted Secret has it."""
        path = self.directory / name
        path.write_text(content)
        return str(path)

    def serve(self, vendor: Vendor) -> str:
        """The vendor's URL."""
        return self.servers.serve(Wire(vendor, clock=time.time))

    def registry(self, admits: Admits, flavour: Literal["basic", "bearer"] = "bearer") -> str:
        """The host of a registry."""
        return self.serve(Registry(time.time, admits, flavour=flavour)).removeprefix("http://")


def _until_exp(username: str, minted: list[str]) -> Admits:
    """Admits whoever shows a JWT that was minted, until its `exp`."""
    return lambda user, password: (
        user == username and password in minted and bool(kubelet.claims(password)["exp"] > time.time())
    )


def chainguard(ground: Ground, issuer: Issuer) -> Case:
    """By the controller's own token, at the issuer that all tests share."""
    identity = new_identity()
    issuer.behave(identity, Behaviour(lifetime_seconds=LIFE_SECONDS))
    host = ground.registry(_until_exp("_token", issuer.tokens))
    settings = {"issuer": issuer.url, "tokenFile": ground.token_file(AUDIENCE)}
    return Case(
        name="chainguard",
        settings={"type": "chainguard", **settings},
        identity=identity,
        username="_token",
        host=host,
        minted=issuer.tokens,
    )


def _aws(ground: Ground, region: str) -> Aws:
    trusts = {"web_identities": ground.trust(STS_AUDIENCE), "agent_identities": ground.trust(AGENT_AUDIENCE)}
    return Aws(region=region, clock=time.time, **trusts)


def _ecr_case(aws: Aws, name: str, role: str, settings: Mapping[str, Any], *, url: str, host: str) -> Case:
    endpoints = {"region": aws.region, "stsEndpoint": url, "ecrEndpoint": url}
    return Case(
        name=name,
        settings={"type": "ecr", **endpoints, **settings},
        identity=role,
        username="AWS",
        host=host,
        minted=aws.minted,
        named=True,
    )


def ecr(ground: Ground) -> Case:
    """By the controller's own token, with which a first role is assumed."""
    first, role = "arn:aws:iam::111111111111:role/first", "arn:aws:iam::123456789012:role/team/pull"
    aws = _aws(ground, "eu-central-1")
    aws.lifetime_seconds = LIFE_SECONDS
    aws.add(Role(arn=first, subjects=frozenset({CONTROLLER})))
    aws.add(Role(arn=role, principals=frozenset({first}), external_id="ours"))
    settings = {"tokenFile": ground.token_file(STS_AUDIENCE), "roleArn": first, "externalId": "ours"}
    host = ground.registry(aws.accepts, "basic")
    return _ecr_case(aws, "ecr", role, settings, url=ground.serve(aws), host=host)


def ecr_keys(ground: Ground) -> Case:
    """By keys in files."""
    user, role = "arn:aws:iam::210987654321:user/puller", "arn:aws:iam::210987654321:role/pull"
    aws = _aws(ground, "us-west-2")
    aws.add(Role(arn=role, principals=frozenset({user}), most_seconds=43200))
    key = aws.user_key(user)
    settings = {
        "credentials": "static",
        "durationSeconds": 43200,
        "accessKeyId": {"file": ground.key_file("access-key-id", key.access_key)},
        "secretAccessKey": {"file": ground.key_file("secret-access-key", key.secret_key)},
    }
    host = ground.registry(aws.accepts, "basic")
    return _ecr_case(aws, "ecr-keys", role, settings, url=ground.serve(aws), host=host)


def ecr_public(ground: Ground) -> Case:
    """By the Pod Identity agent."""
    first, role = "arn:aws:iam::123456789012:role/agent", "arn:aws:iam::123456789012:role/public"
    aws = _aws(ground, "us-east-1")
    aws.lifetime_seconds = LIFE_SECONDS
    aws.add(Role(arn=first, subjects=frozenset({CONTROLLER})))
    aws.add(Role(arn=role, principals=frozenset({first})))
    url = ground.serve(aws)
    settings = {"type": "ecr-public", "credentials": "podIdentity", "tokenFile": ground.token_file(AGENT_AUDIENCE)}
    settings |= {"podIdentityEndpoint": f"{url}{AGENT_PATH}"}
    return _ecr_case(aws, "ecr-public", role, settings, url=url, host=ground.registry(aws.accepts))


def google(ground: Ground) -> Case:
    """By workload identity federation, with impersonation."""
    email, user = "puller@acme.iam.gserviceaccount.com", "oauth2accesstoken"
    cloud = gcp.Google(time.time, ground.trust(gcp.AUDIENCE))
    cloud.lifetime_seconds = LIFE_SECONDS
    cloud.federated_seconds = 3600.0
    cloud.impersonators[email] = {cloud.principal}
    url = ground.serve(cloud)
    host = ground.registry(lambda name, password: name == user and cloud.whose(password) == email)
    settings = {"workloadIdentityProvider": gcp.PROVIDER, "stsEndpoint": url, "iamCredentialsEndpoint": url}
    settings |= {"type": "google", "tokenFile": ground.token_file(gcp.AUDIENCE)}
    return Case(name="google", settings=settings, identity=email, username=user, host=host, minted=cloud.minted)


def acr(ground: Ground) -> Case:
    """By a federated credential."""
    user = "00000000-0000-0000-0000-000000000000"
    azure = entra.Azure(time.time, ground.trust(entra.AUDIENCE))
    azure.lifetime_seconds = LIFE_SECONDS
    azure.registry = ground.registry(lambda name, password: name == user and azure.whose(password) == entra.CLIENT)
    url = ground.serve(azure)
    settings = {"authority": url, "registryEndpoint": url, "tokenFile": ground.token_file(entra.AUDIENCE)}
    return Case(
        name="acr",
        settings={"type": "acr", "default": True, **settings},
        identity=f"{entra.TENANT}/{entra.CLIENT}",
        username=user,
        host=azure.registry,
        minted=azure.minted,
    )


class _AzuresRegistry:
    """A registry that exchanges tokens of Entra at its own host, and takes no other registry's."""

    def __init__(self, azure: entra.Azure, user: str) -> None:
        self.host = ""
        self._azure = azure
        self._registry = Registry(
            time.time,
            lambda name, password: name == user and azure.whose(password, self.host) == entra.CLIENT,
            flavour="bearer",
        )

    async def handle(self, asked: Asked) -> Answer:
        """See Vendor."""
        vendor: Vendor = self._azure if asked.path.startswith("/oauth2/") else self._registry
        return await vendor.handle(asked)


def acr_two(ground: Ground) -> Case:
    """Two registries in one provider, each with a password of its own."""
    user = "00000000-0000-0000-0000-000000000000"
    azure = entra.Azure(time.time, ground.trust(entra.AUDIENCE))
    azure.lifetime_seconds = 3 * LIFE_SECONDS  # for a test that logs in four times
    registries = [_AzuresRegistry(azure, user) for _ in range(2)]
    for registry in registries:
        registry.host = ground.serve(registry).removeprefix("http://")
        azure.registries.add(registry.host)
    hosts = [registry.host for registry in registries]
    settings = {"authority": ground.serve(azure), "tokenFile": ground.token_file(entra.AUDIENCE), "registries": hosts}
    return Case(
        name="acr-two",
        settings={"type": "acr", **settings},
        identity=f"{entra.TENANT}/{entra.CLIENT}",
        username=user,
        host=hosts[0],
        minted=azure.minted,
        named=True,
    )


def crusoe(ground: Ground) -> Case:
    """By an access key, with the clean-up of old tokens."""
    user, access_key, secret_key = "puller@acme.example", "AK-puller", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    api = Crusoe(time.time, access_key=access_key, secret_key=secret_key)
    host = ground.registry(lambda name, password: name == user and api.admits(password))
    keys = {
        "accessKey": {"file": ground.key_file("CRUSOE_ACCESS_KEY", access_key)},
        "secretKey": {"file": ground.key_file("CRUSOE_SECRET_KEY", secret_key)},
    }
    settings = {"user": user, "apiUrl": f"{ground.serve(api)}/v1", "lifetime": f"{LIFE_SECONDS}s", "alias": "e2e"}
    return Case(
        name="crusoe",
        settings={"type": "crusoe", **settings, **keys},
        identity=user,
        username=user,
        host=host,
        minted=api.minted,
    )


def token_exchange(ground: Ground) -> Case:
    """In JFrog's flavour."""
    sts = TokenExchange(time.time, ground.trust("jfrog"), identity="team-a", flavour="jfrog")
    sts.lifetime_seconds = LIFE_SECONDS
    host = ground.registry(_until_exp("puller", sts.minted))
    settings: dict[str, Any] = {"audience": "jfrog", "format": "json", "parameters": {"provider_name": "{identity}"}}
    settings |= {"tokenUrl": f"{ground.serve(sts)}/access/api/v1/oidc/token"}
    settings |= {"tokenFile": ground.token_file("jfrog"), "usernameField": "username"}
    settings |= {"type": "token-exchange", "subjectTokenType": "urn:ietf:params:oauth:token-type:id_token"}
    return Case(
        name="token-exchange",
        settings=settings,
        identity="team-a",
        username="puller",
        host=host,
        minted=sts.minted,
        named=True,
    )


def quay(ground: Ground) -> Case:
    """By the controller's own token as the robot's password."""
    robot = "acme+puller"
    server = Quay(time.time, ground.trust("quay.io"), robots={robot: CONTROLLER})
    server.lifetime_seconds = LIFE_SECONDS
    host = ground.registry(_until_exp(robot, server.minted))
    settings = {"type": "quay", "url": ground.serve(server), "tokenFile": ground.token_file("quay.io")}
    return Case(name="quay", settings=settings, identity=robot, username=robot, host=host, minted=server.minted)


class _Promises:
    """GitHub, and until when it said that each of its tokens is good: they don't say so themselves."""

    def __init__(self, github: Github) -> None:
        self._github = github
        self._ends: dict[str, float] = {}

    async def handle(self, asked: Asked) -> Answer:
        """See Vendor."""
        answer = await self._github.handle(asked)
        if answer.status == 201:
            given = json.loads(answer.body)
            self._ends[given["token"]] = datetime.fromisoformat(given["expires_at"]).timestamp()
        return answer

    def admits(self, user: str, password: str) -> bool:
        """Until the end that was promised."""
        return user == "x-access-token" and self._ends.get(password, 0.0) > time.time()


def github_app(ground: Ground) -> Case:
    """By the App's private key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    github = Github(time.time, app_id="Iv23liExample", public_key=public, installation="12345678")
    github.lifetime_seconds = LIFE_SECONDS
    promises = _Promises(github)
    host = ground.registry(promises.admits)
    settings = {"type": "github-app", "experimental": True, "appId": "Iv23liExample", "apiUrl": ground.serve(promises)}
    return Case(
        name="github-app",
        settings={**settings, "privateKeyFile": ground.key_file("app.pem", private)},
        identity="12345678",
        username="x-access-token",
        host=host,
        minted=github.minted,
    )
