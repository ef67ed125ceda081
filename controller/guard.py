"""The controller does not run unguarded unless it is told to: its admission policies must be there at the start."""

from __future__ import annotations

import asyncio

from structlog.typing import FilteringBoundLogger

from controller.core.errors import ApiError, Unavailable
from controller.core.schedule import RETRY_AFTER_CAP_SECONDS
from controller.kube.admission import POLICIES, installed_policies
from controller.kube.client import KubeClient
from controller.telemetry import Telemetry

_RETRY_SECONDS = 2.0


class StartError(Exception):
    """Why the controller does not start, in words for a person."""


async def check_policies(
    client: KubeClient, *, required: bool, stopping: asyncio.Event, telemetry: Telemetry, log: FilteringBoundLogger
) -> None:
    """Look whether the admission policies are there and mean this controller; refuse to start where they must be.

    Waits for an API server that doesn't answer: a restart would only add to the wait. Raises StartError.
    """
    looking = asyncio.create_task(_installed_policies(client, required, log))
    told = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((looking, told), return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            return
        installed = await looking
    finally:
        looking.cancel()
        told.cancel()
        await asyncio.gather(looking, told, return_exceptions=True)
    for policy, there in installed.items():
        telemetry.policy_installed(policy, there)
    missing = sorted(policy for policy, there in installed.items() if not there)
    if missing and required:
        raise StartError(
            f"these admission policies or their bindings are missing, mean another user, or guard less than manifests/ "
            f"does: {', '.join(missing)}; apply manifests/, or set requirePolicies: false to run without them"
        )
    if missing:
        log.warning("admission policies are missing", policies=missing)


async def _installed_policies(client: KubeClient, required: bool, log: FilteringBoundLogger) -> dict[str, bool]:
    while True:
        try:
            return await installed_policies(client, user=await client.who_am_i())
        except Unavailable as error:
            log.warning("the API server doesn't answer; trying again", detail=str(error))
            await asyncio.sleep(min(error.retry_after_seconds or _RETRY_SECONDS, RETRY_AFTER_CAP_SECONDS))
        except ApiError as error:
            if required:
                raise StartError(f"the admission policies can't be read: {error}") from error
            log.warning("the admission policies can't be read", detail=str(error))
            return dict.fromkeys(POLICIES, False)
