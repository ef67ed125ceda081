"""What can go wrong, as the few classes that decide what happens next.

A `Problem` is what a person is told: one reason and one constant sentence, the same in annotation, Event, log and
metric. No sentence holds a number, a time or a word of the issuer, so nothing an issuer says reaches a tenant.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Pace(enum.Enum):
    """How soon to try again."""

    FAST = "fast"
    """1 s doubling to 60 s: the fault passes by itself."""

    SLOW = "slow"
    """30 s doubling to 15 min: somebody has to change something outside the Secret."""

    ON_CHANGE = "on change"
    """Not before the Secret changes: the fault is in the Secret."""


class Problem(enum.Enum):
    """Every reason that a Secret isn't filled: (reason, sentence, pace, whether it is the provider's own fault)."""

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
            "the Secret is not of type kubernetes.io/dockerconfigjson; a type can't be changed, so delete it and "
            "create it again with --type=kubernetes.io/dockerconfigjson"
        ),
        Pace.ON_CHANGE,
    )
    IMMUTABLE = (
        "Immutable",
        "the Secret is immutable and can't be filled; delete it and create it again without immutable: true",
        Pace.ON_CHANGE,
    )
    PAUSED_UNCLEAR = (
        "PausedUnclear",
        "the annotation paused is neither true nor false and counts as true; set true or false, or remove it",
        Pace.ON_CHANGE,
    )
    IDENTITY_EMPTY = (
        "IdentityEmpty",
        "the identity annotation is empty; set the identity to act as, or remove it",
        Pace.ON_CHANGE,
    )
    SERVICE_ACCOUNT_UNSUPPORTED = (
        "ServiceAccountUnsupported",
        "the annotation service-account is not supported yet; remove it to use the controller's own proof",
        Pace.ON_CHANGE,
    )
    PROVIDER_UNKNOWN = (
        "ProviderUnknown",
        "no provider of that name is configured; set the annotation provider to a configured name, or remove it",
        Pace.ON_CHANGE,
    )
    IDENTITY_UNRECOGNISED = (
        "IdentityUnrecognised",
        "the identity has the shape of no configured provider; correct it, or name its provider",
        Pace.ON_CHANGE,
    )
    PROVIDER_AMBIGUOUS = (
        "ProviderAmbiguous",
        "more than one configured provider takes this identity; set the annotation provider to one of these",
        Pace.ON_CHANGE,
    )
    REGISTRY_NOT_ALLOWED = (
        "RegistryNotAllowed",
        "the annotation registries names a host that the provider is not configured for; use only its registries",
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
            ".dockerconfigjson is not a docker config: it, its auths and our entries must be JSON objects; correct it, "
            "or set it to {}"
        ),
        Pace.ON_CHANGE,
    )
    CONFIG_TOO_LARGE = (
        "ConfigTooLarge",
        "the Secret would be larger than the 1 MiB that Kubernetes allows; remove entries that are not needed",
        Pace.ON_CHANGE,
    )

    # Outside the Secret, and there until somebody acts.
    MINT_REFUSED = (
        "MintRefused",
        "the issuer refused this identity; check that it exists and trusts the controller's ServiceAccount",
        Pace.SLOW,
    )
    IDENTITY_UNKNOWN = (
        "IdentityUnknown",
        "the issuer doesn't know this identity; check the annotation and the identity at the issuer",
        Pace.SLOW,
    )
    REQUEST_REFUSED = (
        "RequestRefused",
        "the issuer takes the request for malformed; check the provider's configuration and the identity",
        Pace.SLOW,
    )
    PROOF_MISSING = (
        "ProofMissing",
        "what proves who the controller is can't be read; check that the provider's tokenFile or key is mounted",
        Pace.SLOW,
    )
    PROOF_UNFIT = (
        "ProofUnfit",
        "what proves who the controller is has expired, is for another audience or is none; check tokenFile or key",
        Pace.SLOW,
    )
    CA_FILE_UNFIT = (
        "CaFileUnfit",
        "the provider's caFile can't be read, or holds no certificate in PEM; check that it is mounted",
        Pace.SLOW,
    )
    TOKEN_UNFIT = (
        "TokenUnfit",
        "the issuer's token is expired or not for the wanted audience and identity; check the provider's configuration",
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
            "something keeps reverting the credential, so it is written more rarely; in Argo CD add ignoreDifferences "
            "for /data, in Flux the annotation kustomize.toolkit.fluxcd.io/ssa: IfNotPresent"
        ),
        Pace.SLOW,
    )

    # Passing.
    ISSUER_THROTTLES = (
        "IssuerThrottles",
        "the issuer asks for fewer requests; the controller tries again by itself",
        Pace.FAST,
    )
    ISSUER_UNAVAILABLE = (
        "IssuerUnavailable",
        "the issuer doesn't answer or fails; the controller tries again by itself",
        Pace.FAST,
        True,
    )
    ISSUER_MALFORMED = (
        "IssuerMalformed",
        "the issuer's answer holds no token; the controller tries again by itself",
        Pace.FAST,
        True,
    )
    UNEXPECTED = (
        "Unexpected",
        "the controller met an error it doesn't know; its log says more, please report it",
        Pace.SLOW,
    )


@dataclass(frozen=True, slots=True)
class Rejection:
    """A problem of one claim, with the names of configured providers where they help to solve it."""

    problem: Problem
    candidates: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The value of the `error` annotation and the message of the Event."""
        named = f": {', '.join(self.candidates)}" if self.candidates else ""
        return f"{self.problem.reason}: {self.problem.sentence}{named}"


class MintError(Exception):
    """A provider could not mint.

    `detail` is for the log alone and made of our own words, statuses and codes; never of a body, header or token.
    """

    def __init__(self, problem: Problem, detail: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{problem.reason} ({detail})")
        self.problem = problem
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds


class StaleProof(MintError):
    """The issuer may mean that the proof has expired: read it again, and if it is another ask once more."""

    def __init__(self, detail: str, *, problem: Problem = Problem.MINT_REFUSED) -> None:
        super().__init__(problem, detail)


class ApiError(Exception):
    """The API server answered with a failure, or not at all.

    The text is made of the verb, the resource and the status reason (an enumeration of Kubernetes); never of a body.
    """

    retry_after_seconds: float | None = None


class Unavailable(ApiError):
    """No answer, 429 or 5xx: try again, not before `retry_after_seconds` where the server gave them."""

    def __init__(self, detail: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class Unauthorized(ApiError):
    """401, with the newest credentials there are."""


class Forbidden(ApiError):
    """403: RBAC or an admission policy."""


class NotFound(ApiError):
    """404: deleted meanwhile, or not installed."""


class Conflict(ApiError):
    """409: somebody wrote since the version that we decided on. Ordinary life."""


class Invalid(ApiError):
    """400, 413 or 422: the request itself will never pass."""


class Gone(ApiError):
    """410, or reason Expired: the resource version is too old to go on from."""


class FutureVersion(ApiError):
    """504 "Too large resource version": the server hasn't seen that version, so it may have been restored."""
