"""Each way to ask for the impossible: said once and clearly, nothing overwritten, and over once it is corrected."""

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from testing.api import ApiError
from testing.exchange import Issuer
from tests.e2e.support import kubelet
from tests.e2e.support.kubelet import KEY
from tests.e2e.support.requests import AuditLog
from tests.e2e.support.tenant import AT_ONCE_SECONDS, FILL_SECONDS, Tenant, annotation, filled_for

pytestmark = pytest.mark.usefixtures("shared_controller")


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A Secret that can't be filled as it is."""

    reason: str
    config: object = field(default_factory=dict)
    identity: str | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    correction: dict[str, str | None] | None = None
    """Annotations that make it right; where None, the docker config is set to `{}`."""


CASES = {
    "auths is no object": Bad(reason="ConfigUnreadable", config={"auths": ["cgr.dev"]}),
    "our entry is no object": Bad(reason="ConfigUnreadable", config={"auths": {"cgr.dev": "token"}}),
    "no service account's name": Bad(
        reason="ServiceAccountInvalid",
        annotations={"service-account": "team-a/default"},
        correction={"service_account": None},
    ),
    "an identity of no provider": Bad(reason="IdentityUnrecognised", identity="nobody"),
    "a foreign registry": Bad(
        reason="RegistryNotAllowed", annotations={"registries": "cgr.dev,evil.example"}, correction={"registries": None}
    ),
    "an unknown provider": Bad(
        reason="ProviderUnknown", annotations={"provider": "nobody"}, correction={"provider": None}
    ),
}


@pytest.mark.parametrize("bad", CASES.values(), ids=CASES.keys())
def test_bad_input_is_told_once_touches_nothing_and_can_be_corrected(
    bad: Bad, tenant: Tenant, issuer: Issuer, audit: AuditLog
) -> None:
    tenant.create(bad.identity, config=bad.config, annotations=bad.annotations)
    event = tenant.warned(bad.reason)
    assert event["type"] == "Warning"
    told = tenant.wait(lambda secret: bool(annotation(secret, "error")), timeout=FILL_SECONDS).secret
    assert (annotation(told, "error") or "").startswith(bad.reason)
    assert json.loads(base64.b64decode(told["data"][KEY])) == bad.config
    assert issuer.exchanges(tenant.identity) == []
    assert len(tenant.history()) == 2, "created, told"

    began = time.time()
    if bad.correction is not None:
        tenant.annotate(**bad.correction)
    elif bad.identity is not None:
        tenant.annotate(identity=tenant.identity)
    else:
        tenant.set_config({})
    filled = tenant.filled()
    assert filled.at - began < AT_ONCE_SECONDS
    assert annotation(filled.secret, "error") is None
    tenant.warned(bad.reason)
    assert [event["reason"] for event in tenant.events() if event["type"] == "Warning"] == [bad.reason]
    assert len(audit.requests(namespace=tenant.namespace, verb="patch")) <= 4


def test_an_immutable_secret_is_told_once_and_filled_when_it_is_created_anew(
    tenants: Callable[[], Tenant], issuer: Issuer, audit: AuditLog
) -> None:
    tenant, fence = tenants(), tenants()
    tenant.create(immutable=True)
    tenant.warned("Immutable")
    fence.create()
    fence.filled()
    assert tenant.config() == {}
    assert issuer.exchanges(tenant.identity) == []
    assert len(audit.requests(namespace=tenant.namespace, verb="patch")) == 1, "the error annotation"
    tenant.delete()
    began = time.time()
    tenant.create()
    assert tenant.filled().at - began < AT_ONCE_SECONDS


def test_an_opaque_secret_is_refused_with_what_to_do(tenant: Tenant) -> None:
    with pytest.raises(ApiError, match=r"create it again with --type=kubernetes\.io/dockerconfigjson"):
        tenant.create(type="Opaque")


@pytest.mark.parametrize("entry", [{"auth": "dG9rZW4="}, {"auth": "user:token"}, {"username": 7}, "token"], ids=str)
def test_a_broken_foreign_entry_is_reported_beside_the_token_until_it_is_corrected(tenant: Tenant, entry: Any) -> None:
    """A kubelet that meets it drops the whole Secret and pulls as nobody."""
    tenant.create(config={"auths": {"quay.io": entry}})
    assert tenant.warned("ForeignEntryUnreadable")["message"].endswith(": quay.io")
    secret = tenant.wait(lambda secret: bool(annotation(secret, "expires-at")), timeout=FILL_SECONDS).secret
    assert (annotation(secret, "error") or "").startswith("ForeignEntryUnreadable: ")
    with pytest.raises(kubelet.RejectedError):
        kubelet.credentials(secret)
    config = tenant.config()
    assert config["auths"]["quay.io"] == entry
    config["auths"]["quay.io"] = {"auth": "dTpw"}
    tenant.set_config(config)
    healed = tenant.wait(lambda secret: annotation(secret, "error") is None, timeout=AT_ONCE_SECONDS).secret
    assert filled_for(tenant.identity)(healed)
    assert kubelet.credentials(healed)["quay.io"] == ("u", "p")


@pytest.mark.parametrize(
    "content",
    [b'{"auths":{"quay.io":{"x":"\xff"}}}', b'{"auths":{"\xff":{}}}', b'{"auths":{"\\ud800":{}},"\xfe":"\xff"}'],
    ids=["in a text", "in a key", "half a surrogate pair"],
)
def test_bytes_that_are_no_utf_8_keep_no_secret_from_its_token(tenant: Tenant, content: bytes) -> None:
    """The API server and the kubelet read each of them as U+FFFD."""
    tenant.create("")
    tenant.set_config(content)
    tenant.annotate(identity=tenant.identity)
    filled = tenant.filled().secret
    assert base64.b64decode(filled["data"][KEY]).startswith(content[: content.index(b"}") - 1])
    assert annotation(filled, "error") is None


def test_a_paused_annotation_that_says_neither_counts_as_paused_and_is_told(tenant: Tenant) -> None:
    tenant.create(annotations={"paused": "maybe"})
    tenant.warned("PausedUnclear")
    assert tenant.config() == {}
    tenant.annotate(paused="false")
    tenant.filled()
