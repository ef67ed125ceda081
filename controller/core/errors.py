"""What can go wrong, as the few classes that decide what happens next.

A `Problem` is what a person reads: one reason and one constant sentence, the same in annotation, Event, log and
metric. No sentence has a number that varies, a time, or a word from the issuer, so nothing an issuer says reaches a
tenant.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Pace(enum.Enum):
    """How soon to try again."""

    FAST = "fast"
    """1 s doubling to 60 s: the fault is temporary."""

    SLOW = "slow"
    """30 s doubling to 15 min: somebody has to change something outside the Secret."""

    ON_CHANGE = "on change"
    """Not until the Secret changes: the fault is in the Secret."""


class Problem(enum.Enum):
    """Every reason why a Secret isn't filled: (reason, sentence, pace, whether the provider is at fault)."""

    reason: str
    sentence: str
    pace: Pace
    providers_fault: bool

    def __init__(self, reason: str, sentence: str, pace: Pace, providers_fault: bool = False) -> None:
        self.reason = reason
        self.sentence = sentence
        self.pace = pace
        self.providers_fault = providers_fault

    # In the Secret.
    WRONG_TYPE = (
        "WrongType",
        (
            "the Secret's type is not kubernetes.io/dockerconfigjson, and a type can't be changed; delete the Secret "
            "and create it again with --type=kubernetes.io/dockerconfigjson"
        ),
        Pace.ON_CHANGE,
    )
    IMMUTABLE = (
        "Immutable",
        "the Secret is immutable, so it can't be filled; delete it and create it again without immutable: true",
        Pace.ON_CHANGE,
    )
    PAUSED_UNCLEAR = (
        "PausedUnclear",
        "the annotation paused is neither true nor false, so it counts as true; set it to true or false, or remove it",
        Pace.ON_CHANGE,
    )
    IDENTITY_EMPTY = (
        "IdentityEmpty",
        "the annotation identity is empty; set it to the identity to act as, or remove it",
        Pace.ON_CHANGE,
    )
    ANNOTATION_TOO_LONG = (
        "AnnotationTooLong",
        (
            "an annotation is too long: identity may have 2,048 characters, refresh 256 characters, and registries "
            "128 hosts; shorten it"
        ),
        Pace.ON_CHANGE,
    )
    SERVICE_ACCOUNT_INVALID = (
        "ServiceAccountInvalid",
        (
            "the annotation service-account is not the name of a ServiceAccount; set it to the name of one in the "
            "Secret's own namespace, or remove it"
        ),
        Pace.ON_CHANGE,
    )
    SERVICE_ACCOUNT_UNSUPPORTED = (
        "ServiceAccountUnsupported",
        (
            "no provider for this identity takes the proof of a ServiceAccount that a Secret names, by its protocol or "
            "by its configuration; remove the annotation service-account, or ask whoever runs pull-secret-updater"
        ),
        Pace.ON_CHANGE,
    )
    SERVICE_ACCOUNT_REQUIRED = (
        "ServiceAccountRequired",
        (
            "the provider takes no proof but that of a ServiceAccount in the Secret's own namespace; name one in the "
            "annotation service-account"
        ),
        Pace.ON_CHANGE,
    )
    PROVIDER_UNKNOWN = (
        "ProviderUnknown",
        "the Secret names a provider that is not configured; use the name of a configured one, or don't name any",
        Pace.ON_CHANGE,
    )
    IDENTITY_UNRECOGNISED = (
        "IdentityUnrecognised",
        (
            "the identity doesn't match the format of any configured provider, or of the one that the Secret names; "
            "correct it, or set the annotation provider"
        ),
        Pace.ON_CHANGE,
    )
    PROVIDER_AMBIGUOUS = (
        "ProviderAmbiguous",
        "more than one configured provider accepts this identity; set the annotation provider to one of these",
        Pace.ON_CHANGE,
    )
    IDENTITY_NOT_ALLOWED = (
        "IdentityNotAllowed",
        (
            "the provider's namespaces and identities, which the operator has configured, don't allow this identity "
            "in this namespace; use another one, or ask whoever runs pull-secret-updater"
        ),
        Pace.ON_CHANGE,
    )
    REGISTRY_NOT_ALLOWED = (
        "RegistryNotAllowed",
        "the annotation registries has a host that is not one of the provider's registries; use only configured ones",
        Pace.ON_CHANGE,
    )
    REGISTRY_CLAIMED_TWICE = (
        "RegistryClaimedTwice",
        "another identity of this Secret already has one of these registries; give each registry to one identity",
        Pace.ON_CHANGE,
    )
    CONFIG_UNREADABLE = (
        "ConfigUnreadable",
        (
            ".dockerconfigjson is not a valid Docker config: it, its auths and the controller's entries must be JSON "
            "objects, with 10,000 members at most; correct it, or set it to {}"
        ),
        Pace.ON_CHANGE,
    )
    FOREIGN_ENTRY_UNREADABLE = (
        "ForeignEntryUnreadable",
        (
            "the token is written, but no kubelet reads this Secret until you correct or remove what is malformed in "
            ".dockerconfigjson and not the controller's: an entry must be a JSON object, its username, password, email "
            "and auth strings, and auth the base64 of user:password; malformed are"
        ),
        Pace.ON_CHANGE,
    )
    CONFIG_TOO_LARGE = (
        "ConfigTooLarge",
        "the Secret would exceed 1 MiB, which Kubernetes allows, or 10,000 entries; remove those that you don't need",
        Pace.ON_CHANGE,
    )

    # Outside the Secret; they last until somebody fixes them.
    MINT_REFUSED = (
        "MintRefused",
        "the issuer refused this identity; check that it exists and trusts the ServiceAccount that proves it",
        Pace.SLOW,
    )
    IDENTITY_UNKNOWN = (
        "IdentityUnknown",
        "the issuer doesn't know this identity; check the annotation and the identity at the issuer",
        Pace.SLOW,
    )
    REQUEST_REFUSED = (
        "RequestRefused",
        "the issuer rejected the request as malformed; check the provider's configuration and the identity",
        Pace.SLOW,
    )
    PROOF_MISSING = (
        "ProofMissing",
        "the controller's own credential can't be read; check that the provider's tokenFile or key is mounted",
        Pace.SLOW,
    )
    PROOF_UNFIT = (
        "ProofUnfit",
        (
            "the controller's own credential has expired, has the wrong audience, or is not a token or key; check the "
            "provider's tokenFile or key"
        ),
        Pace.SLOW,
    )
    CA_FILE_UNFIT = (
        "CaFileUnfit",
        "the provider's caFile can't be read, or has no certificate in PEM format; check that it is mounted",
        Pace.SLOW,
    )
    TOKEN_UNFIT = (
        "TokenUnfit",
        (
            "the issuer's token can't be used: it has expired or has no expiry, is for the wrong audience or identity, "
            "or a registry refused it; check the provider's configuration"
        ),
        Pace.SLOW,
    )
    TOKEN_REQUEST_REFUSED = (
        "TokenRequestRefused",
        (
            "the API server refused the controller a token of the ServiceAccount that the Secret names; check the "
            "controller's RBAC and the cluster's admission policies, as docs/security.md shows"
        ),
        Pace.SLOW,
    )
    WRITE_REFUSED = (
        "WriteRefused",
        "the API server refused the controller's write; check its RBAC and the cluster's admission policies",
        Pace.SLOW,
    )
    FIGHT = (
        "Fight",
        (
            "another writer keeps reverting the Secret, and the controller keeps restoring it; make that writer leave "
            "alone the Secret's data and the annotations that the controller writes, as docs/gitops.md shows"
        ),
        Pace.SLOW,
    )

    OVER_LIMIT = (
        "OverLimit",
        (
            "this namespace has more Secrets that ask for an identity than the operator allows, so only the oldest are "
            "served; delete some, or ask whoever runs pull-secret-updater for a higher limits.perNamespace.secrets"
        ),
        Pace.ON_CHANGE,
    )
    GRANT_REVOKED = (
        "GrantRevoked",
        (
            "the namespace isn't allowed to use this identity, or no longer is, so it gets no token; ask whoever "
            "manages RBAC for a RoleBinding that lets the namespace's ServiceAccounts use it, as docs/tenancy.md shows"
        ),
        Pace.SLOW,
    )
    SECRET_NOT_WATCHED = (
        "SecretNotWatched",
        (
            "the ServiceAccount asks for a Secret of a name that the controller doesn't watch; set its annotation "
            "secret to one that it watches, or ask whoever runs pull-secret-updater to add the name to secretNames"
        ),
        Pace.ON_CHANGE,
    )
    TARGET_CONFLICT = (
        "TargetConflict",
        (
            "a target wants a Secret of this name here, but there already is one that it didn't make, so it is left "
            "alone; delete or rename that one, or exclude the namespace from the target"
        ),
        Pace.SLOW,
    )
    TARGET_CONTESTED = (
        "TargetContested",
        (
            "somebody keeps undoing what a target does here; make them stop, or keep targets out with the annotation "
            "pull-secret-updater.chainguard.dev/targets: none on the namespace"
        ),
        Pace.SLOW,
    )
    TARGET_KEPT = (
        "TargetKept",
        (
            "the Secret is no longer a target's, and holds more than the target's token, so it isn't deleted; its "
            "token is left to expire"
        ),
        Pace.SLOW,
    )

    WRITE_FAILS = (
        "WriteFails",
        (
            "the API server fails to accept the controller's writes; check its health and the admission webhooks for "
            "Secrets; the controller retries automatically"
        ),
        Pace.FAST,
    )

    # Temporary.
    SERVICE_ACCOUNT_MISSING = (
        "ServiceAccountMissing",
        (
            "the ServiceAccount that the Secret names does not exist in its namespace; create it, or correct the "
            "annotation service-account; the controller looks for it automatically"
        ),
        Pace.FAST,
    )
    TOKEN_REQUEST_FAILS = (
        "TokenRequestFails",
        (
            "the API server fails to give the controller a token of the ServiceAccount that the Secret names; check "
            "its health; the controller retries automatically"
        ),
        Pace.FAST,
    )
    MINTS_LIMITED = (
        "MintsLimited",
        (
            "this namespace asks for more tokens a minute than the operator allows, so some of its Secrets wait for "
            "more than a minute; ask for fewer identities, or ask whoever runs pull-secret-updater for a higher "
            "limits.perNamespace.mintsPerMinute"
        ),
        Pace.FAST,
    )
    GRANT_UNCLEAR = (
        "GrantUnclear",
        (
            "the API server gives no answer on whether the namespace may use this identity; check the cluster's "
            "authorizers and that manifests/components/grants is applied; the controller retries automatically"
        ),
        Pace.FAST,
    )
    ISSUER_THROTTLES = (
        "IssuerThrottles",
        "the issuer is limiting the rate of requests; the controller retries automatically",
        Pace.FAST,
    )
    ISSUER_UNAVAILABLE = (
        "IssuerUnavailable",
        "no response from the issuer, or it returned an error; the controller retries automatically",
        Pace.FAST,
        True,
    )
    CLUSTER_ISSUER_UNREACHABLE = (
        "ClusterIssuerUnreachable",
        (
            "the issuer can't fetch the keys with which the cluster signs ServiceAccount tokens: either it can't reach "
            "the cluster's own issuer, or what it trusts names another issuer URL; check both; the controller retries "
            "automatically"
        ),
        Pace.FAST,
    )
    ISSUER_MALFORMED = (
        "IssuerMalformed",
        "the issuer's response has no usable token; the controller retries automatically",
        Pace.FAST,
        True,
    )
    UNEXPECTED = (
        "Unexpected",
        "the controller hit an unexpected error; please report it, with the details in the controller's log",
        Pace.SLOW,
    )


@dataclass(frozen=True, slots=True)
class Rejection:
    """A problem of one claim, with names that help to solve it, such as those of configured providers.

    They are of our configuration, of our own proof or of the cluster, and the same at each look: never a word of the
    issuer, a time or a number.
    """

    problem: Problem
    named: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The value of the `error` annotation and the message of the Event."""
        named = f": {', '.join(self.named)}" if self.named else ""
        return f"{self.problem.reason}: {self.problem.sentence}{named}"


class MintError(Exception):
    """A provider could not mint.

    `detail` is only for the log. It has our own words, statuses and codes, and never a body, a header or a token.
    `named` is for the Secret and its Event; see Rejection.
    """

    def __init__(
        self,
        problem: Problem,
        detail: str,
        *,
        named: tuple[str, ...] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(f"{problem.reason} ({detail})")
        self.problem = problem
        self.detail = detail
        self.named = named
        self.retry_after_seconds = retry_after_seconds

    def rejection(self, provider: str) -> Rejection:
        """What is reported of a claim that this provider should serve."""
        return Rejection(self.problem, (f"provider {provider}", *self.named))


class StaleProof(MintError):
    """The proof may have expired: read it again, and if it has changed, ask the issuer once more."""

    def __init__(self, detail: str, *, problem: Problem = Problem.MINT_REFUSED, named: tuple[str, ...] = ()) -> None:
        super().__init__(problem, detail, named=named)
