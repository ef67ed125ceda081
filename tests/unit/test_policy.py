"""What a claim needs, as a table of sentences, and that no annotation can make the policy fail or extend a life."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.annotations import PREFIX, read_instant
from controller.core.errors import Problem, Rejection
from controller.core.model import Decision, Ignore, Keep, Reason, Refresh, Report, Resolved, Standing, View
from controller.core.policy import Policy, Profile, Shape, issued_for
from controller.core.projection import project
from tests.unit.fakes import (
    CHAINGUARD,
    HOUR,
    IDENTITY,
    NOW,
    OTHER_IDENTITY,
    SHAPES,
    WINDOW,
    annotated,
    entry,
    filled,
    jwt,
    managed,
    registry_token,
    secret_json,
    view,
    written,
)

ECR = Profile("team-ecr", "ecr", ("1.ecr.example", "2.ecr.example"))
ROLE = "arn:aws:iam::123456789012:role/puller"


def policy(*profiles: Profile) -> Policy:
    return Policy(profiles or (CHAINGUARD, ECR), shapes=SHAPES, window=WINDOW)


POLICY = policy()


def decide(fields: dict[str, Any], *, now: float = NOW, claim: str = "") -> Decision:
    return POLICY.decide(view(**fields, claim=claim), now)


def asks(config: Any = b"{}", *, fields: Mapping[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    """A Secret that was never filled."""
    return {"annotations": annotated(**{"identity": IDENTITY, **inputs}), "config": config, **(fields or {})}


DUE_AT = POLICY.refresh_at(uid=view(**filled()).secret.uid, issued_at=NOW, expiry=float(NOW + HOUR))


# Whether a token is due, and why.

TABLE: dict[str, tuple[dict[str, Any], float, Decision]] = {
    "a Secret that was never filled is new": (asks(), NOW, Refresh(Reason.NEW, NOW)),
    "a new Secret that already holds something is new": (
        asks({"auths": {"cgr.dev": entry()}}),
        NOW,
        Refresh(Reason.NEW, NOW),
    ),
    "a token in the first half of its life is kept": (filled(), NOW, Keep(DUE_AT)),
    "a moment before its deadline it is still kept": (filled(), DUE_AT - 0.001, Keep(DUE_AT)),
    "at its deadline it is due, since then": (filled(), DUE_AT, Refresh(Reason.SCHEDULED, DUE_AT)),
    "a past deadline means now, not never": (filled(), NOW + HOUR - 1, Refresh(Reason.SCHEDULED, DUE_AT)),
    "at its end it has expired, and stays due since its deadline": (
        filled(),
        NOW + HOUR,
        Refresh(Reason.EXPIRED, DUE_AT),
    ),
    "years later it has expired": (filled(), NOW + 10**9, Refresh(Reason.EXPIRED, DUE_AT)),
    "wiped data is due now even if annotations look fresh": (
        {**filled(), "config": b"{}"},
        NOW,
        Refresh(Reason.EDITED, NOW),
    ),
    "another password in our entry is an edit": (
        {**filled(), "config": {"auths": {"cgr.dev": entry(password="x")}}},
        NOW,
        Refresh(Reason.EDITED, NOW),
    ),
    "another format of our entry is no edit": (
        {**filled(), "config": {"auths": {"https://CGR.dev/v1/": {"auth": entry()["auth"], "email": "x"}}}},
        NOW,
        Keep(DUE_AT),
    ),
    "another registry's entry is no edit": (
        {**filled(), "config": {"auths": {"cgr.dev": entry(), "b.example": entry()}}},
        NOW,
        Keep(DUE_AT),
    ),
    "a forged fingerprint is an edit": (filled(overrides={"fingerprint": "0" * 16}), NOW, Refresh(Reason.EDITED, NOW)),
    "forged hosts are an edit": (
        filled(overrides={"registries-managed": "x.example"}),
        NOW,
        Refresh(Reason.EDITED, NOW),
    ),
    "another identity is due now": (
        filled(overrides={"identity": OTHER_IDENTITY}),
        NOW,
        Refresh(Reason.IDENTITY, NOW),
    ),
    "a request is due now": (filled(overrides={"refresh": "1"}), NOW, Refresh(Reason.REQUESTED, NOW)),
    "an empty request is one too": (filled(overrides={"refresh": ""}), NOW, Refresh(Reason.REQUESTED, NOW)),
    "a request that was honoured is none": (
        filled(refreshed_for="1", overrides={"refresh": "1"}),
        NOW,
        Keep(DUE_AT),
    ),
    "another request is one": (
        filled(refreshed_for="1", overrides={"refresh": "2"}),
        NOW,
        Refresh(Reason.REQUESTED, NOW),
    ),
    "a request that was taken back is none": (filled(refreshed_for="1"), NOW, Keep(DUE_AT)),
    "an issued-at of the future is due": (
        filled(issued_at=NOW + 601, expires_at=NOW + HOUR),
        NOW,
        Refresh(Reason.EDITED, NOW),
    ),
    "an issued-at a little ahead is only another clock": (
        filled(issued_at=NOW + 360, expires_at=NOW + 360 + HOUR),
        NOW,
        Keep(POLICY.refresh_at(uid=view(**filled()).secret.uid, issued_at=NOW + 360, expiry=float(NOW + 360 + HOUR))),
    ),
    "paused is left alone, even when it is due": (asks(paused="true"), NOW, Ignore()),
    "paused is left alone, even when its input is bad": (asks(paused="true", provider="nobody"), NOW, Ignore()),
    "paused: false is not paused": (asks(paused="false"), NOW, Refresh(Reason.NEW, NOW)),
    "anything else counts as paused and is told": (
        asks(paused="True"),
        NOW,
        Report(Rejection(Problem.PAUSED_UNCLEAR)),
    ),
    "an empty pause counts as paused and is told": (asks(paused=""), NOW, Report(Rejection(Problem.PAUSED_UNCLEAR))),
    "an old error goes when all is well": (filled(overrides={"error": "Fight: x"}), NOW, Report(None, DUE_AT)),
    "an old error stays until the token that is due": (
        filled(overrides={"error": "Fight: x", "refresh": "1"}),
        NOW,
        Refresh(Reason.REQUESTED, NOW),
    ),
}


@pytest.mark.parametrize("sentence", TABLE)
def test_what_a_claim_needs(sentence: str) -> None:
    fields, now, expected = TABLE[sentence]
    assert decide(fields, now=now) == expected


@pytest.mark.parametrize("key", ["issued-at", "expires-at", "issued-for", "fingerprint"])
@pytest.mark.parametrize("value", [None, "?"])
def test_without_what_we_wrote_the_credential_is_due_once(key: str, value: str | None) -> None:
    reasons = {"issued-for": Reason.IDENTITY, "fingerprint": Reason.EDITED}
    expected = reasons.get(key, Reason.NEW) if value else Reason.NEW
    assert decide(filled(overrides={key: value})) == Refresh(expected, NOW)


def test_every_reason_is_in_the_table() -> None:
    assert {d.reason for _, _, d in TABLE.values() if isinstance(d, Refresh)} == set(Reason)


def test_only_the_clock_asks_for_a_longer_life() -> None:
    assert {reason for reason in Reason if reason.by_the_clock} == {Reason.SCHEDULED, Reason.EXPIRED}


def test_the_deadline_survives_the_annotation_round_trip() -> None:
    """What is computed in memory beside the token is what a restart computes from the Secret."""
    for issued_at in range(NOW, NOW + 50):
        for lifetime in (20, 901, 3599, HOUR, 40_000, 90_000):
            expires_at = issued_at + lifetime
            found = view(**filled(issued_at=issued_at, expires_at=expires_at))
            expiry = POLICY.expiry(found.claim)
            assert expiry == min(expires_at, issued_at + WINDOW.max_lifetime_seconds)
            planned = POLICY.refresh_at(uid=found.secret.uid, issued_at=issued_at, expiry=expiry)
            assert POLICY.decide(found, issued_at) == Keep(planned)
            shown = read_instant(
                filled(issued_at=issued_at, expires_at=expires_at)["annotations"][f"{PREFIX}refresh-at"]
            )
            if lifetime <= WINDOW.max_lifetime_seconds:
                assert shown == int(planned)


def test_a_forged_refresh_at_is_never_read() -> None:
    assert decide(filled(overrides={"refresh-at": "2099-01-01T00:00:00Z"})) == Keep(DUE_AT)


# A forged annotation never extends a life.


def test_a_forged_expires_at_never_extends_past_the_token() -> None:
    forged = filled(password=registry_token(), overrides={"expires-at": "2099-01-01T00:00:00Z"})
    assert decide(forged) == Keep(DUE_AT)
    assert decide(forged, now=NOW + HOUR) == Refresh(Reason.EXPIRED, DUE_AT)


def test_a_forged_expires_at_of_an_opaque_token_costs_the_longest_life_at_most() -> None:
    found = view(**filled(password="opaque", overrides={"expires-at": "2099-01-01T00:00:00Z"}))
    assert POLICY.expiry(found.claim) == NOW + 12 * HOUR
    decision = POLICY.decide(found, NOW)
    assert isinstance(decision, Keep)
    assert decision.until <= NOW + 12 * HOUR * 0.65


def test_a_forged_issued_at_cannot_push_the_end_of_a_token_away() -> None:
    forged = filled(
        password=registry_token(),
        overrides={"issued-at": "2026-01-02T03:13:00Z", "expires-at": "2099-01-01T00:00:00Z"},
    )
    assert POLICY.expiry(view(**forged).claim) == NOW + HOUR


@pytest.mark.parametrize("exp", [0, 1.5, NOW - 1, NOW])
def test_a_token_that_ended_before_it_began_is_due_but_makes_no_hot_loop(exp: float) -> None:
    """It came from an issuer whose clock is behind: ten seconds after the issue is soon enough."""
    found = filled(password=registry_token(exp=exp))
    assert decide(found, now=NOW + 9) == Keep(NOW + 10)
    assert decide(found, now=NOW + 10) == Refresh(Reason.EXPIRED, NOW + 10)


@pytest.mark.parametrize("exp", [10**15, 10**400, -(10**400), 1e308, True, "soon", None, [NOW]], ids=range(8))
def test_an_absurd_exp_in_the_secret_changes_nothing_and_stops_nothing(exp: object) -> None:
    """Whoever may edit a Secret writes the JWT in it, so nothing in there may be an error to the controller."""
    decision = decide(filled(password=jwt(aud="cgr.dev", exp=exp)))
    assert isinstance(decision, Keep | Refresh)


def test_without_a_credential_of_ours_in_place_there_is_no_expiry() -> None:
    assert POLICY.expiry(view(**asks()).claim) is None
    assert POLICY.expiry(view(**{**filled(), "config": b"{}"}).claim) is None
    assert POLICY.expiry(view(**filled()).claim) == NOW + HOUR


# What can be wrong with the input.

BAD_INPUT: dict[str, tuple[dict[str, Any], Rejection]] = {
    "a Secret of another type": (asks(fields={"type": "Opaque"}), Rejection(Problem.WRONG_TYPE)),
    "an immutable Secret": (asks(fields={"immutable": True}), Rejection(Problem.IMMUTABLE)),
    "a pause that is neither true nor false": (asks(paused="yes"), Rejection(Problem.PAUSED_UNCLEAR)),
    "an empty identity": (asks(identity=""), Rejection(Problem.IDENTITY_EMPTY)),
    "a service account that the provider doesn't take": (
        asks(service_account="robot"),
        Rejection(Problem.SERVICE_ACCOUNT_UNSUPPORTED, ("provider chainguard",)),
    ),
    "an empty service account": (asks(service_account=""), Rejection(Problem.SERVICE_ACCOUNT_INVALID)),
    "a provider that nobody configured": (asks(provider="nobody"), Rejection(Problem.PROVIDER_UNKNOWN)),
    "an identity that fits no provider": (asks(identity="me"), Rejection(Problem.IDENTITY_UNRECOGNISED)),
    "an identity that doesn't fit the named provider": (
        asks(provider="team-ecr"),
        Rejection(Problem.IDENTITY_UNRECOGNISED),
    ),
    "an identity of 2,049 characters": (asks(identity="x" * 2049), Rejection(Problem.ANNOTATION_TOO_LONG)),
    "a refresh of 257 characters": (asks(refresh="x" * 257), Rejection(Problem.ANNOTATION_TOO_LONG)),
    "129 registries": (asks(registries="cgr.dev," * 129), Rejection(Problem.ANNOTATION_TOO_LONG)),
    "an identity with something behind it": (asks(identity=IDENTITY + "/"), Rejection(Problem.IDENTITY_UNRECOGNISED)),
    "an identity with a line break behind it": (
        asks(identity=IDENTITY + "\n"),
        Rejection(Problem.IDENTITY_UNRECOGNISED, ("it begins or ends with white space",)),
    ),
    "an identity in capitals": (asks(identity=IDENTITY.upper()), Rejection(Problem.IDENTITY_UNRECOGNISED)),
    "a registry that the provider may not serve": (
        asks(registries="cgr.dev,evil.example"),
        Rejection(Problem.REGISTRY_NOT_ALLOWED),
    ),
    "a registry of another provider": (
        asks(registries="1.ecr.example", provider="chainguard"),
        Rejection(Problem.REGISTRY_NOT_ALLOWED),
    ),
    "a subdomain of an allowed registry": (asks(registries="x.cgr.dev"), Rejection(Problem.REGISTRY_NOT_ALLOWED)),
    "no JSON": (asks(b"hello"), Rejection(Problem.CONFIG_UNREADABLE)),
    "a list": (asks(b"[]"), Rejection(Problem.CONFIG_UNREADABLE)),
    "auths that are no object": (asks({"auths": []}), Rejection(Problem.CONFIG_UNREADABLE)),
    "an entry of ours that is no object": (asks({"auths": {"cgr.dev": 1}}), Rejection(Problem.CONFIG_UNREADABLE)),
    "an entry of ours in another spelling that is no object": (
        asks({"auths": {"https://CGR.dev/": "x", "cgr.dev": {}}}),
        Rejection(Problem.CONFIG_UNREADABLE),
    ),
    "the type is told first, since nothing else can be mended before": (
        asks(b"[]", fields={"type": "Opaque", "immutable": True}, identity="", paused="x"),
        Rejection(Problem.WRONG_TYPE),
    ),
}


@pytest.mark.parametrize("sentence", BAD_INPUT)
def test_bad_input_is_told_once_and_then_waits_for_a_change(sentence: str) -> None:
    fields, rejection = BAD_INPUT[sentence]
    assert POLICY.resolve(view(**fields)) == rejection
    assert decide(fields) == Report(rejection)
    told = {**fields, "annotations": {**fields["annotations"], f"{PREFIX}error": rejection.text}}
    assert decide(told) == Ignore()
    outdated = {**fields, "annotations": {**fields["annotations"], f"{PREFIX}error": "another"}}
    assert decide(outdated) == Report(rejection)


@pytest.mark.parametrize("sentence", BAD_INPUT)
def test_bad_input_is_not_minted_for_even_if_a_token_is_due(sentence: str) -> None:
    fields, rejection = BAD_INPUT[sentence]
    expired = {**written(), **fields["annotations"]}
    assert decide({**fields, "annotations": expired}, now=NOW + 10 * HOUR) == Report(rejection)


def test_a_foreign_entry_that_no_kubelet_can_read_is_reported_until_the_next_refresh_and_once() -> None:
    fields = filled()
    fields["config"]["auths"]["quay.io"] = 7
    rejection = Rejection(Problem.FOREIGN_ENTRY_UNREADABLE, ("quay.io",))
    assert decide(fields) == Report(rejection, DUE_AT)
    told = {**fields, "annotations": {**fields["annotations"], f"{PREFIX}error": rejection.text}}
    assert decide(told) == Keep(DUE_AT)
    assert decide(told, now=DUE_AT) == Refresh(Reason.SCHEDULED, DUE_AT)
    fight = Standing(Rejection(Problem.FIGHT), NOW + 60)
    assert POLICY.decide(view(**told), NOW, fight) == Report(fight.rejection, NOW + 60)


def test_a_sentence_with_three_foreign_entries_fits_into_an_event() -> None:
    sentence = Rejection(Problem.FOREIGN_ENTRY_UNREADABLE, (*(3 * ["x" * 200]), "others")).text
    assert len(sentence) <= 1024


def test_of_several_providers_one_that_takes_the_proof_serves_the_claim() -> None:
    own = Profile("own", "chainguard", ("cgr.dev",))
    tenants = Profile("tenants", "chainguard", ("cgr.dev",), takes_own_proof=False, takes_tenants_proof=True)
    assert resolve(own, tenants) == Resolved("own", IDENTITY, ("cgr.dev",), None)
    assert resolve(own, tenants, service_account="robot") == Resolved("tenants", IDENTITY, ("cgr.dev",), "robot")
    required = Rejection(Problem.SERVICE_ACCOUNT_REQUIRED, ("provider tenants",))
    assert resolve(tenants) == resolve(own, tenants, provider="tenants") == required
    unsupported = Rejection(Problem.SERVICE_ACCOUNT_UNSUPPORTED, ("provider own",))
    assert resolve(own, tenants, provider="own", service_account="robot") == unsupported


def test_every_fault_that_the_policy_can_find_in_a_secret_is_in_a_test() -> None:
    found = {rejection.problem for _, rejection in BAD_INPUT.values()}
    elsewhere = {
        *(Problem.PROVIDER_AMBIGUOUS, Problem.REGISTRY_CLAIMED_TWICE, Problem.CONFIG_TOO_LARGE),
        *(Problem.FOREIGN_ENTRY_UNREADABLE, Problem.IDENTITY_NOT_ALLOWED, Problem.SERVICE_ACCOUNT_REQUIRED),
        *(Problem.SECRET_NOT_WATCHED, Problem.OVER_LIMIT),  # of a ServiceAccount, and of a namespace
    }
    assert found | elsewhere == {problem for problem in Problem if problem.pace.value == "on change"}


def test_a_foreign_entry_that_is_no_object_is_not_our_business() -> None:
    assert decide(asks({"auths": {"b.example": 1}})) == Refresh(Reason.NEW, NOW)


def test_an_entry_of_ours_that_is_null_is_empty() -> None:
    assert decide(asks({"auths": {"cgr.dev": None}})) == Refresh(Reason.NEW, NOW)


# Which provider, and for which hosts.


def resolve(*profiles: Profile, **inputs: Any) -> Resolved | Rejection:
    return policy(*profiles).resolve(view(**asks(**inputs)))


def test_the_provider_is_inferred_from_the_shape_of_the_identity() -> None:
    assert resolve() == Resolved("chainguard", IDENTITY, ("cgr.dev",), None)
    assert resolve(identity=ROLE) == Resolved("team-ecr", ROLE, ("1.ecr.example", "2.ecr.example"), None)
    assert resolve(identity=IDENTITY[:40]) == Resolved("chainguard", IDENTITY[:40], ("cgr.dev",), None)


def test_the_named_provider_is_taken() -> None:
    other = Profile("other", "chainguard", ("b.example",))
    assert resolve(CHAINGUARD, other, provider="other") == Resolved("other", IDENTITY, ("b.example",), None)


def test_registries_narrow_the_hosts_in_any_spelling_and_order() -> None:
    resolved = resolve(identity=ROLE, registries="https://2.ECR.example/ , 1.ecr.example,2.ecr.example")
    assert resolved == Resolved("team-ecr", ROLE, ("1.ecr.example", "2.ecr.example"), None)
    assert resolve(identity=ROLE, registries="2.ecr.example/v2/") == Resolved(
        "team-ecr", ROLE, ("2.ecr.example",), None
    )


def test_of_two_providers_of_a_type_the_one_that_may_serve_the_hosts_is_taken() -> None:
    west = Profile("west", "ecr", ("3.ecr.example",))
    assert resolve(ECR, west, identity=ROLE, registries="3.ecr.example") == Resolved(
        "west", ROLE, ("3.ecr.example",), None
    )


def test_where_two_providers_fit_both_are_named() -> None:
    west = Profile("a-west", "ecr-public", ECR.registries)
    rejection = resolve(ECR, west, identity=ROLE)
    assert rejection == Rejection(Problem.PROVIDER_AMBIGUOUS, ("a-west", "team-ecr"))
    assert isinstance(rejection, Rejection)
    assert rejection.text.endswith(": a-west, team-ecr")


def test_where_two_types_fit_and_neither_may_serve_the_hosts_that_is_the_problem() -> None:
    west = Profile("west", "ecr", ("3.ecr.example",))
    assert resolve(ECR, west, identity=ROLE, registries="1.ecr.example,3.ecr.example") == Rejection(
        Problem.REGISTRY_NOT_ALLOWED
    )


def test_the_first_shape_that_fits_decides() -> None:
    anything = Shape(re.compile(".*"), frozenset({"generic"}))
    shaped = Policy([CHAINGUARD, Profile("g", "generic", ("g.example",))], shapes=(*SHAPES, anything), window=WINDOW)
    assert shaped.resolve(view(**asks())) == Resolved("chainguard", IDENTITY, ("cgr.dev",), None)
    assert shaped.resolve(view(**asks(identity="x"))) == Resolved("g", "x", ("g.example",), None)
    assert shaped.resolve(view(**asks(provider="g"))) == Resolved("g", IDENTITY, ("g.example",), None)


def test_a_type_without_a_shape_takes_any_identity_when_it_is_named() -> None:
    generic = Profile("generic", "generic", ("g.example",))
    assert resolve(generic, identity="me", provider="generic") == Resolved("generic", "me", ("g.example",), None)
    assert resolve(generic, identity="me") == Rejection(Problem.IDENTITY_UNRECOGNISED)


def test_the_default_of_two_providers_serves_whoever_names_none() -> None:
    two = (replace(CHAINGUARD, is_default=True), Profile("other", "chainguard", ("cgr.dev", "b.example")))
    assert resolve(*two) == Resolved("chainguard", IDENTITY, ("cgr.dev",), None)
    assert resolve(*two, provider="other") == Resolved("other", IDENTITY, ("cgr.dev", "b.example"), None)
    assert resolve(*two, registries="b.example") == Resolved("other", IDENTITY, ("b.example",), None)
    both = (two[0], replace(two[1], is_default=True))
    assert resolve(*both) == Rejection(Problem.PROVIDER_AMBIGUOUS, ("chainguard", "other"))


def test_a_second_provider_changes_nothing_for_tokens_that_the_default_has_minted() -> None:
    two = policy(replace(CHAINGUARD, is_default=True), Profile("other", "chainguard", ("cgr.dev",)))
    assert two.decide(view(**filled()), NOW) == Keep(DUE_AT)


# What the operator allows, whatever RBAC does.

NOT_ALLOWED = Rejection(Problem.IDENTITY_NOT_ALLOWED)


@pytest.mark.parametrize(
    ("globs", "allowed"),
    [
        (("*",), True),
        (("team-a",), True),
        (("team-b", "team-?"), True),
        (("team-*",), True),
        (("*-a",), True),
        (("team-b",), False),
        (("team",), False),
        (("TEAM-A",), False),
        (("team-a-*",), False),
        (("?",), False),
        ((), False),
    ],
)
def test_a_provider_serves_the_namespaces_that_the_operator_names(globs: tuple[str, ...], allowed: bool) -> None:
    locked = replace(CHAINGUARD, namespaces=globs)
    assert isinstance(resolve(locked), Resolved) is allowed
    assert (resolve(locked, provider="chainguard") == NOT_ALLOWED) is not allowed
    further = view(annotated(identity_chainguard=IDENTITY), claim="chainguard")
    assert (policy(locked).resolve(further) == NOT_ALLOWED) is not allowed


@pytest.mark.parametrize(
    ("globs", "allowed"),
    [((IDENTITY,), True), ((f"{IDENTITY[:40]}/*",), True), ((IDENTITY[:40],), False), ((f"*{IDENTITY[1:-1]}",), False)],
)
def test_a_provider_serves_the_identities_that_the_operator_names(globs: tuple[str, ...], allowed: bool) -> None:
    assert isinstance(resolve(replace(CHAINGUARD, identities=globs)), Resolved) is allowed


def test_of_two_providers_the_one_that_is_open_to_the_namespace_serves_it() -> None:
    two = (
        replace(CHAINGUARD, namespaces=("team-b",), is_default=True),
        Profile("other", "chainguard", ("cgr.dev",), namespaces=("team-a",)),
    )
    assert resolve(*two) == Resolved("other", IDENTITY, ("cgr.dev",), None)


def test_a_token_in_place_is_kept_and_not_replaced_once_the_operator_forbids_it() -> None:
    locked = policy(replace(CHAINGUARD, namespaces=("team-b",)))
    for now in (NOW, NOW + 10 * HOUR):
        assert locked.decide(view(**filled()), now) == Report(NOT_ALLOWED)


def test_a_glob_of_many_stars_is_judged_soon() -> None:
    identity, glob = "a" * 2048, "*a" * 500 + "b"
    began = time.perf_counter()
    assert not isinstance(resolve(replace(CHAINGUARD, identities=(glob,)), identity=identity), Resolved)
    assert not replace(CHAINGUARD, identities=(glob,)).serves("x", identity)
    assert time.perf_counter() - began < 5


def two_claims(**more: str) -> dict[str, Any]:
    both = annotated(identity=IDENTITY, identity_other=IDENTITY, **more)
    return {"annotations": both, "config": b"{}"}


def test_of_two_claims_with_one_host_the_later_by_name_is_told() -> None:
    twice = policy(CHAINGUARD, Profile("other", "chainguard", ("cgr.dev", "b.example")))
    fields = two_claims(provider="chainguard")
    assert twice.resolve(view(**fields)) == Resolved("chainguard", IDENTITY, ("cgr.dev",), None)
    assert twice.resolve(view(**fields, claim="other")) == Rejection(Problem.REGISTRY_CLAIMED_TWICE)
    apart = two_claims(provider="chainguard", registries_other="b.example")
    assert twice.resolve(view(**apart, claim="other")) == Resolved("other", IDENTITY, ("b.example",), None)


def test_a_claim_of_no_host_takes_none_from_a_later_one() -> None:
    twice = policy(CHAINGUARD, Profile("other", "chainguard", ("cgr.dev",)))
    fields = two_claims(provider="nobody")
    assert twice.resolve(view(**fields)) == Rejection(Problem.PROVIDER_UNKNOWN)
    assert twice.resolve(view(**fields, claim="other")) == Resolved("other", IDENTITY, ("cgr.dev",), None)


def test_each_claim_has_its_own_deadline() -> None:
    later = written(issued_at=NOW + 100, expires_at=NOW + 100 + HOUR, identity=ROLE, profile=ECR, claim="team-ecr")
    fields = filled()
    fields["annotations"] |= {**annotated(identity_team_ecr=ROLE), **later}
    fields["config"]["auths"] |= dict.fromkeys(ECR.registries, entry())
    one, other = decide(fields), decide(fields, claim="team-ecr")
    assert isinstance(one, Keep)
    assert isinstance(other, Keep)
    assert one.until != other.until


# What a token was minted for.


def test_issued_for_is_sixteen_hex_and_the_same_in_every_release() -> None:
    assert issued_for(Resolved("chainguard", IDENTITY, ("cgr.dev",), None)) == "9fed89c7d85b6234"


@pytest.mark.parametrize(
    "change",
    [{"identity": "x"}, {"provider": "x"}, {"hosts": ("x",)}, {"service_account": "x"}, {"service_account": ""}],
)
def test_whatever_a_token_is_minted_for_is_in_issued_for(change: dict[str, Any]) -> None:
    resolved = Resolved("chainguard", IDENTITY, ("cgr.dev",), None)
    assert issued_for(replace(resolved, **change)) != issued_for(resolved)


def test_a_change_of_the_configuration_makes_every_token_of_it_due() -> None:
    wider = policy(Profile("chainguard", "chainguard", ("cgr.dev", "x.cgr.dev")))
    assert wider.decide(view(**filled()), NOW) == Refresh(Reason.IDENTITY, NOW)


# Total.

KEYS = [
    *("identity", "provider", "registries", "service-account", "refresh", "paused", "issued-at", "expires-at"),
    *("refresh-at", "issued-for", "fingerprint", "registries-managed", "refreshed-for", "error"),
]
instants = st.datetimes().map(lambda at: at.isoformat() + "Z")
values = st.one_of(
    st.text(max_size=20),
    instants,
    st.sampled_from([*filled()["annotations"].values(), ROLE, "team-ecr", "chainguard", "cgr.dev", "true", "false"]),
)
keys = st.sampled_from([*KEYS, *(f"{key}.team-ecr" for key in KEYS), *(f"{key}.x" for key in KEYS)])
exps = st.one_of(st.integers(), st.floats(), st.integers(1, 1000).map(lambda digits: 10**digits), st.text())
configs = st.one_of(
    st.binary(max_size=20),
    st.dictionaries(
        st.sampled_from(["cgr.dev", "https://CGR.dev/", "1.ecr.example", "x"]),
        st.one_of(st.none(), st.integers(), exps.map(lambda exp: entry(password=jwt(exp=exp))), st.just(entry())),
        max_size=3,
    ).map(lambda auths: json.dumps({"auths": auths}).encode()),
)


@given(
    st.dictionaries(keys, values, max_size=10),
    st.sets(st.sampled_from(sorted(filled()["annotations"])), max_size=3),
    configs,
    st.booleans(),
    st.floats(0, 1e11),
)
@settings(max_examples=150)
def test_whatever_stands_in_a_secret_there_is_a_decision(
    forged: dict[str, str], lost: set[str], config: bytes, started_filled: bool, now: float
) -> None:
    ours = filled()["annotations"] if started_filled else {}
    ours = {key: value for key, value in ours.items() if key not in lost}
    ours |= {f"{PREFIX}{key}": value for key, value in forged.items()}
    secret = project(secret_json(ours, config=config)).item
    for found in secret.views() if secret else ():
        POLICY.expiry(found.claim)
        decision = POLICY.decide(found, now)
        assert decision == POLICY.decide(found, now)
        _is_sound(decision, found, now)


def _is_sound(decision: Decision, found: View, now: float) -> None:
    match decision:
        case Keep(until):
            expiry = POLICY.expiry(found.claim)
            assert expiry is not None
            assert now < until
            assert until <= max(expiry, (found.claim.issued_at or 0) + 1)
        case Refresh(_, at):
            assert at <= now
        case Report(None, until):
            assert until is not None
            assert until > now
        case Report(rejection, until):
            assert rejection == POLICY.resolve(found)
            assert until is None


def test_two_looks_at_one_version_are_equal() -> None:
    assert decide(filled()) == decide(filled())
    assert managed(**filled()) == managed(**filled())
