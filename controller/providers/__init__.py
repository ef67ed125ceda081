"""The token issuers: one file each, complete in itself, all in the same order of sections."""

from __future__ import annotations

import re
from collections.abc import Mapping

from controller.core.policy import Shape
from controller.providers import acr, chainguard, crusoe, ecr, github_app, google, quay, token_exchange
from controller.providers.contract import ProviderType

TYPES: Mapping[str, ProviderType] = {
    "chainguard": chainguard.Chainguard,
    "ecr": ecr.Ecr,
    "ecr-public": ecr.EcrPublic,
    "google": google.Google,
    "acr": acr.Acr,
    "crusoe": crusoe.Crusoe,
    "token-exchange": token_exchange.TokenExchange,
    "quay": quay.Quay,
    "github-app": github_app.GithubApp,
}
"""The value of `type` in the configuration, and what it builds."""

SHAPES = (
    Shape(re.compile(chainguard.IDENTITY), frozenset({"chainguard"})),
    Shape(re.compile(ecr.IDENTITY), frozenset({"ecr", "ecr-public"})),
    Shape(re.compile(google.IDENTITY), frozenset({"google"})),
    Shape(re.compile(acr.IDENTITY), frozenset({"acr"})),
    Shape(re.compile(crusoe.IDENTITY), frozenset({"crusoe"})),
    Shape(re.compile(quay.IDENTITY), frozenset({"quay"})),
    Shape(re.compile(github_app.IDENTITY), frozenset({"github-app"})),
)
"""Which type an identity is for; the first match counts. `token-exchange` has no shape: it is always named."""


def accept_the_same(one: str, other: str) -> bool:
    """Whether an identity without the name of a provider may be for both of these types."""
    return any({one, other} <= shape.types for shape in SHAPES)
