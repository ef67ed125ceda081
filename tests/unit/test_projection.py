"""What is kept of a Secret: everything that decides, and no byte of a credential."""

from __future__ import annotations

import base64
import json
from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import dockerconfig
from controller.core.annotations import PREFIX
from controller.core.model import Ref
from controller.core.projection import config_bytes, project, project_annotated, project_filled
from tests.unit.fakes import (
    HOUR,
    IDENTITY,
    NOW,
    annotated,
    entry,
    filled,
    jwt,
    managed,
    registry_token,
    secret_json,
)

CANARY = "canary-7c1f0e"


def metadata_only(raw: bytes) -> bytes:
    """The answer to a patch: the same object as PartialObjectMetadata."""
    return json.dumps({"kind": "PartialObjectMetadata", "metadata": json.loads(raw)["metadata"]}).encode()


def everything_in(secret: object) -> str:
    return repr(secret) + repr(astuple(secret))  # type: ignore[call-overload]  # any dataclass will do


# No credential survives.


def test_no_byte_of_a_credential_is_in_the_projection() -> None:
    credential = jwt(aud="cgr.dev", secret=CANARY, exp=NOW + HOUR)
    foreign = {"b.example": entry("foreign-user", CANARY), "c.example": {"identitytoken": CANARY}}
    config = {"auths": {"cgr.dev": entry("the-user", credential), **foreign}, "HttpHeaders": {"X": CANARY}}
    kept = everything_in(
        managed(
            annotated(identity=IDENTITY, registries_managed="cgr.dev"),
            config=config,
            stringData={"x": CANARY},
        )
    )
    header, payload, signature = credential.split(".")
    leaks = (CANARY, header, payload, signature, "the-user", "foreign-user", entry("the-user", credential)["auth"])
    assert [leak for leak in leaks if leak in kept] == []
    assert base64.b64encode(CANARY.encode()).decode()[:12] not in kept


def test_others_annotations_are_not_kept_since_they_hold_whole_secrets() -> None:
    foreign = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps({"data": CANARY})}
    assert CANARY not in everything_in(managed({**annotated(identity=IDENTITY), **foreign}))


def test_other_data_and_managed_fields_are_not_kept() -> None:
    raw = json.loads(secret_json(annotated(identity=IDENTITY)))
    raw["data"]["another-key"] = CANARY
    raw["metadata"]["managedFields"] = [{"manager": CANARY}]
    raw["metadata"]["labels"] = {"x": CANARY}
    assert CANARY not in everything_in(project(json.dumps(raw).encode()).item)


def test_an_error_holds_nothing_of_the_secret() -> None:
    raw = secret_json(annotated(identity=IDENTITY)).replace(b'"7"', CANARY.encode())
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the promise is the class
        project(raw)
    assert CANARY not in str(caught.value)


# What it is.


def test_what_identifies_a_secret_is_kept() -> None:
    observed = project(
        secret_json(annotated(identity=IDENTITY), namespace="n", name="s", uid="u", resource_version="9")
    )
    assert observed.ref == Ref("n", "s")
    assert observed.resource_version == "9"
    assert observed.item is not None
    assert (observed.item.ref, observed.item.uid, observed.item.resource_version) == (Ref("n", "s"), "u", "9")


@pytest.mark.parametrize("of_the_secret", [None, {}, {"x": "y"}, annotated(registries="cgr.dev", refresh="1")])
def test_a_secret_without_an_identity_is_observed_but_not_managed(of_the_secret: dict[str, str] | None) -> None:
    observed = project(secret_json(of_the_secret, resource_version="9"))
    assert (observed.item, observed.resource_version) == (None, "9")


def test_an_empty_identity_asks_for_one_so_that_somebody_is_told() -> None:
    assert managed(annotated(identity="")).claims[0].identity == ""


def test_every_suffix_is_a_claim_of_its_own() -> None:
    secret = managed(
        {
            **annotated(identity="a", identity_ecr="b", registries_ecr="e.example", service_account_ecr="sa"),
            **annotated(provider="p", registries="cgr.dev , x.example"),
            PREFIX + "issued-at.ecr": "2026-01-02T03:04:05Z",
            PREFIX + "error.ecr": "x",
        }
    )
    plain, ecr = secret.claims
    assert (plain.name, plain.identity, plain.provider, plain.registries) == ("", "a", "p", ("cgr.dev", "x.example"))
    assert (plain.service_account, plain.issued_at, plain.error) == (None, None, None)
    assert (ecr.name, ecr.identity, ecr.provider, ecr.registries) == ("ecr", "b", "ecr", ("e.example",))
    assert (ecr.service_account, ecr.issued_at, ecr.error) == ("sa", NOW, "x")
    assert secret.view("nobody") is None
    assert [(view.key.claim, view.claim) for view in secret.views()] == [("", plain), ("ecr", ecr)]


@pytest.mark.parametrize(
    ("fields", "right_type", "immutable"),
    [
        ({}, True, False),
        ({"type": "Opaque"}, False, False),
        ({"type": "kubernetes.io/dockercfg"}, False, False),
        ({"immutable": True}, True, True),
        ({"immutable": False}, True, False),
        ({"immutable": None}, True, False),
    ],
)
def test_type_and_immutability_are_known_without_a_read(
    fields: dict[str, Any], right_type: bool, immutable: bool
) -> None:
    secret = managed(annotated(identity=IDENTITY), **fields)
    assert (secret.right_type, secret.immutable) == (right_type, immutable)


@pytest.mark.parametrize(
    ("config", "readable", "plain"),
    [
        (None, True, True),
        (b"", True, True),
        (b"{}", True, True),
        (b"null", True, True),
        (b'{"auths":null}', True, True),
        ({"auths": {"cgr.dev": entry()}}, True, True),
        ({"auths": {"CGR.dev": entry()}}, True, False),
        ({"auths": {}, "x": 1}, True, False),
        (b"[]", False, False),
        (b"hello", False, False),
        (b'{"auths":[]}', False, False),
    ],
)
def test_plain_and_readable_are_known_without_a_read(config: Any, readable: bool, plain: bool) -> None:
    secret = managed(annotated(identity=IDENTITY), config=config)
    assert (secret.readable, secret.plain) == (readable, plain)


def test_hosts_and_broken_hosts_are_known_without_a_read() -> None:
    secret = managed(annotated(identity=IDENTITY), config={"auths": {"https://B.example/": 1, "a.example": {}}})
    assert (secret.hosts, secret.broken_hosts) == (("a.example", "b.example"), ("b.example",))


@pytest.mark.parametrize("data", [None, {}, {"other": "eA=="}])
def test_a_secret_without_our_key_is_empty(data: dict[str, str] | None) -> None:
    secret = managed(annotated(identity=IDENTITY), config=None, data=data)
    assert (secret.readable, secret.plain, secret.hosts) == (True, True, ())


# What was written, and what is there now.


def test_what_we_wrote_is_found_again() -> None:
    claim = managed(**filled(password="p", refreshed_for="1")).claims[0]
    assert (claim.issued_at, claim.expires_at, claim.refreshed_for) == (NOW, NOW + HOUR, "1")
    assert claim.managed_hosts == ("cgr.dev",)
    assert claim.present_fingerprint == claim.fingerprint is not None


def test_the_expiry_of_the_credential_in_place_is_read_where_it_is_a_jwt() -> None:
    assert managed(**filled(password=registry_token())).claims[0].credential_exp == NOW + HOUR
    assert managed(**filled(password="opaque")).claims[0].credential_exp is None


def test_of_several_credentials_the_earliest_expiry_counts() -> None:
    config = {"auths": {h: entry(password=jwt(exp=e)) for h, e in (("a", NOW + 9), ("b", NOW + 5), ("c", "x"))}}
    claim = managed(annotated(identity=IDENTITY, registries_managed="a,b,c"), config=config).claims[0]
    assert claim.credential_exp == NOW + 5


@pytest.mark.parametrize("config", [{}, {"auths": {}}, {"auths": {"a.example": entry()}}, b"[]", None])
def test_where_an_entry_of_ours_is_missing_there_is_no_present_fingerprint(config: Any) -> None:
    ours = annotated(identity=IDENTITY, registries_managed="a.example,b.example")
    assert managed(ours, config=config).claims[0].present_fingerprint is None


def test_without_managed_hosts_nothing_there_is_ours() -> None:
    claim = managed(annotated(identity=IDENTITY), config={"auths": {"cgr.dev": entry()}}).claims[0]
    assert (claim.managed_hosts, claim.present_fingerprint, claim.credential_exp) == ((), None, None)


@pytest.mark.parametrize(
    ("key", "forged"),
    [
        ("issued-at", "tomorrow"),
        ("expires-at", "9" * 400),
        ("expires-at", ""),
        ("registries-managed", ",,,"),
    ],
)
def test_a_forged_annotation_is_read_as_missing(key: str, forged: str) -> None:
    claim = managed(**filled(overrides={key: forged})).claims[0]
    field = {"registries-managed": claim.managed_hosts, "issued-at": claim.issued_at, "expires-at": claim.expires_at}
    assert field[key] in (None, ())


@given(st.dictionaries(st.text(), st.text(), max_size=6), st.binary(), st.text(), st.booleans())
def test_whatever_a_secret_holds_it_can_be_projected(
    values: dict[str, str], content: bytes, type_: str, immutable: bool
) -> None:
    ours = {PREFIX + key: value for key, value in values.items()}
    raw = secret_json({**ours, **annotated(identity="x")}, config=content, type=type_, immutable=immutable)
    assert project(raw).item is not None
    assert config_bytes(raw) == content


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b"\xff", b'{"metadata":{}}', b"[" * 100_000])
def test_what_is_no_secret_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- the promise is the class
        project(raw)


@pytest.mark.parametrize("value", ["a", "äöü"])
def test_data_that_is_not_base64_is_a_value_error(value: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- the promise is the class
        project(secret_json(annotated(identity="x"), config=None, data={".dockerconfigjson": value}))


# Our own writes.


def test_after_our_fill_the_projection_is_the_one_that_the_watch_will_bring() -> None:
    before = managed(annotated(identity=IDENTITY), resource_version="7")
    after = secret_json(**filled(password=registry_token(), resource_version="8"))
    content = config_bytes(after)
    assert project_filled(metadata_only(after), before=before, content=content).item == project(after).item


def test_after_our_error_the_projection_is_the_one_that_the_watch_will_bring() -> None:
    fields = filled(password=registry_token(), resource_version="7")
    before = managed(**fields)
    told = {**fields["annotations"], PREFIX + "error": "Fight: stop"}
    after = secret_json(told, config=fields["config"], resource_version="8")
    assert project_annotated(metadata_only(after), before=before).item == project(after).item
    healed = secret_json(fields["annotations"], config=fields["config"], resource_version="9")
    observed = project(after).item
    assert observed is not None
    assert project_annotated(metadata_only(healed), before=observed).item == project(healed).item


def test_one_metadata_reply_is_enough_to_see_that_the_identity_went_meanwhile() -> None:
    before = managed(annotated(identity=IDENTITY))
    reply = metadata_only(secret_json({}, resource_version="8"))
    assert project_filled(reply, before=before, content=b"{}").item is None


def test_the_present_fingerprint_is_of_what_the_kubelet_will_use() -> None:
    config = {"auths": {"cgr.dev": {**entry("_token", "used"), "username": "x", "password": "ignored"}}}
    claim = managed(annotated(identity=IDENTITY, registries_managed="cgr.dev"), config=config).claims[0]
    assert claim.present_fingerprint == dockerconfig.fingerprint({"cgr.dev": ("_token", "used")})


def test_a_secret_of_a_mebibyte_of_entries_is_kept_in_a_few_words() -> None:
    """W10: one tenant's Secret must not take the memory of thousands."""
    auths: dict[str, dict[str, str]] = {f"{number:x}": {} for number in range(80_000)}
    secret = project(secret_json(annotated(identity="x", registries=",".join(auths)), config={"auths": auths})).item
    assert secret is not None
    assert not secret.plain
    assert secret.hosts == ()
    assert len(secret.claims[0].registries or ()) == 129
