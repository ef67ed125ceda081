"""One faulty Secret of each kind: what holds no usable token, and why."""

from collections.abc import Mapping
from typing import Any

from testing.behaviour import Behaviour
from testing.exchange import Issuer
from testing.mounted import MountedTokens
from tests.e2e.support.tenant import Tenant

KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Immutable": ("refused", {"immutable": True}),
    "IdentityEmpty": ("refused", {"identity": "", "annotations": {"identity": ""}}),
    "AnnotationTooLong": ("refused", {"annotations": {"refresh": "x" * 257}}),
    "ServiceAccountInvalid": ("refused", {"annotations": {"service-account": "team-a/default"}}),
    "TokenRequestRefused": ("refused", {"annotations": {"service-account": "default", "registries": "cgr.dev"}}),
    "ProviderUnknown": ("refused", {"annotations": {"provider": "nobody"}}),
    "IdentityUnrecognised": ("refused", {"identity": "nobody"}),
    "ProviderAmbiguous": ("refused", {"annotations": {"registries": "shared.example"}}),
    "RegistryNotAllowed": ("refused", {"annotations": {"registries": "evil.example"}}),
    "ConfigUnreadable": ("refused", {"config": {"auths": ["cgr.dev"]}}),
    "ForeignEntryUnreadable": ("refused", {"config": {"auths": {"quay.io": "token"}}}),
    "PausedUnclear": ("paused", {"annotations": {"paused": "perhaps"}}),
    "MintRefused": ("refused", {}),
    "IssuerUnavailable": ("unfilled", {}),
}
"""By reason: in which state a Secret of this kind counts, and how it is created."""


def providers(issuer: Issuer, mounted: MountedTokens) -> dict[str, Any]:
    """Two of one type that have a host in common, so that a Secret can fail to choose."""
    one = {"type": "chainguard", "issuer": issuer.url, "tokenFile": str(mounted.oidc_token), "timeoutSeconds": 2}
    return {
        "chainguard": {**one, "registries": ["cgr.dev", "shared.example"]},
        "other": {**one, "registries": ["other.example", "shared.example"]},
    }


def create(reason: str, tenant: Tenant, issuer: Issuer) -> None:
    """Create it, for a controller whose provider `chainguard` serves cgr.dev."""
    if reason in {"MintRefused", "IssuerUnavailable"}:
        issuer.behave(tenant.identity, Behaviour(status=403 if reason == "MintRefused" else 503))
    tenant.create(**{"annotations": {"registries": "cgr.dev"}, **KINDS[reason][1]})
