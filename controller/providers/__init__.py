"""The token issuers: one file each, complete in itself, all in the same order of sections."""

from __future__ import annotations

import re
from collections.abc import Mapping

from controller.core.policy import Shape
from controller.providers import acr, chainguard, crusoe, ecr, github_app, google, quay, token_exchange
from controller.providers.base import ProviderType

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
"""Which type an identity means, by its shape; the first that fits. `token-exchange` has none: it is always named."""
