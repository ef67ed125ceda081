"""Proof by a tenant's own ServiceAccount: the issuer sees the tenant's subject, and not the controller's.

Each mint asks the API server for a token of its own: for the provider's audience, for ten minutes, and bound to one
Secret that waits for the mint, so that it ends with that Secret. It is kept for that mint alone, and never shown. If
the API server gives none, the mint fails; nothing is ever sent in its place.
"""

from __future__ import annotations

from controller.core.errors import MintError, Problem
from controller.core.model import ManagedSecret, Ref
from controller.kube.client import KubeClient
from controller.kube.errors import ApiError, Forbidden, Invalid, NotFound

TOKEN_SECONDS = 600
"""The shortest life that the API server gives; a mint takes seconds."""


class TenantProof:
    """The proof of one mint; see the module. `secret` is one that waits for it, None if all are gone.

    A target's Secret that isn't there yet has no UID to bind the token to, so that one ends by its time alone.
    """

    def __init__(
        self, client: KubeClient, service_account: Ref, *, secret: ManagedSecret | None, timeout_seconds: float
    ) -> None:
        self._client = client
        self._service_account = service_account
        self._secret = secret
        self._timeout_seconds = timeout_seconds
        self._tokens: dict[str, str] = {}
        """By audience: who reads the proof again, because the issuer calls it stale, finds that it is the same."""

    async def __call__(self, audience: str) -> str:
        """The token for `audience`. Raises MintError."""
        if audience not in self._tokens:
            self._tokens[audience] = await self._request(audience)
        return self._tokens[audience]

    async def _request(self, audience: str) -> str:
        secret = self._secret
        if secret is None:
            raise self._error(Problem.TOKEN_REQUEST_FAILS, "no Secret waits for it any more")
        try:
            return await self._client.create_token(
                self._service_account,
                audience=audience,
                seconds=TOKEN_SECONDS,
                secret=(secret.ref.name, secret.uid) if secret.uid else None,
                total_seconds=self._timeout_seconds,
            )
        except NotFound as error:
            raise self._error(Problem.SERVICE_ACCOUNT_MISSING, str(error)) from error
        except (Forbidden, Invalid) as error:
            raise self._error(Problem.TOKEN_REQUEST_REFUSED, str(error)) from error
        except ApiError as error:
            raise self._error(Problem.TOKEN_REQUEST_FAILS, str(error), error.retry_after_seconds) from error

    def _error(self, problem: Problem, detail: str, retry_after_seconds: float | None = None) -> MintError:
        named = (f"ServiceAccount {'/'.join(self._service_account)}",)
        return MintError(problem, detail, named=named, retry_after_seconds=retry_after_seconds)
