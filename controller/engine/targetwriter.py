"""The writes that make a target's Secret and take it away. Whatever else is there is never changed."""

from __future__ import annotations

import base64

import msgspec

from controller.core import dockerconfig
from controller.core.annotations import CREATED_BY, IGNORED_BY_RELOADER, TARGET, Written, render_inputs, render_written
from controller.core.model import ManagedSecret, Ref, Resolved, Token
from controller.core.policy import issued_for
from controller.core.projection import DATA_KEY, SECRET_TYPE, has_other_keys, project_stranger
from controller.core.targets import Stranger, Target, is_removable
from controller.engine.reconciler import fingerprint
from controller.kube.client import KubeClient
from controller.kube.errors import Conflict, NotFound


class TargetWriter:
    """See the module. Every method raises ApiError; Conflict if the Secret has changed meanwhile, so look again."""

    def __init__(self, client: KubeClient, *, installation: str) -> None:
        self._client = client
        self._installation = installation

    async def make(self, target: Target, ref: Ref, resolved: Resolved, token: Token) -> Stranger | None:
        """Create the target's Secret, filled; or take over the empty one that is there, if the target may.

        Returns the stranger that is in the way, untouched. Raises NotFound if there is no such namespace.
        """
        annotations, data = {**target.inputs, **_written(resolved, token)}, _data(resolved, token)
        given = {key: value for key, value in annotations.items() if value is not None}
        metadata = {
            "name": ref.name,
            "namespace": ref.namespace,
            "labels": {CREATED_BY: self._installation},
            "annotations": IGNORED_BY_RELOADER | given,
        }
        secret = {"apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE, "metadata": metadata, "data": data}
        try:
            await self._client.create_secret(ref, secret)
            return None
        except Conflict:
            stranger = await self._look_at(ref)
        if stranger.created_by == self._installation:  # we made it, and the answer was lost
            return None
        if not (target.adopts_empty and stranger.is_empty):
            return stranger
        marked = {
            "resourceVersion": stranger.resource_version,
            "labels": {CREATED_BY: self._installation},
            "annotations": annotations,
        }
        await self._patch(ref, {"metadata": marked, "data": data})
        return None

    async def remove(self, secret: ManagedSecret) -> bool:
        """Delete a target's Secret. False: it holds something else too, so it is only let go and no longer served."""
        if is_removable(secret) and not has_other_keys(await self._client.get_secret(secret.ref)):
            await self._client.delete_secret(secret.ref, uid=secret.uid, resource_version=secret.resource_version)
            return True
        nothing = render_inputs(target=None, identity=None, provider=None, registries=None, service_account=None)
        await self._unmark(secret, nothing)
        return False

    async def let_go(self, secret: ManagedSecret) -> None:
        """Take the marks off, so that the Secret is one that its namespace owns; it still asks for its identity."""
        await self._unmark(secret, {TARGET: None})

    async def _unmark(self, secret: ManagedSecret, annotations: dict[str, str | None]) -> None:
        metadata = {
            "resourceVersion": secret.resource_version,
            "labels": {CREATED_BY: None},
            "annotations": annotations,
        }
        await self._patch(secret.ref, {"metadata": metadata})

    async def _look_at(self, ref: Ref) -> Stranger:
        try:
            return project_stranger(await self._client.get_secret(ref))
        except NotFound as error:
            raise Conflict("create secret: it has come and gone") from error

    async def _patch(self, ref: Ref, patch: object) -> None:
        await self._client.patch_secret(ref, msgspec.json.encode(patch))


def _written(resolved: Resolved, token: Token) -> dict[str, str | None]:
    written = Written(
        issued_at=token.issued_at,
        expires_at=token.expires_at,
        refresh_at=None,  # drawn by the UID
        issued_for=issued_for(resolved),
        fingerprint=fingerprint(resolved, token),
        hosts=resolved.hosts,
        refreshed_for=None,
    )
    return render_written("", written)


def _data(resolved: Resolved, token: Token) -> dict[str, str]:
    content = dockerconfig.merge(dockerconfig.EMPTY, entries=token.entries(resolved.hosts))
    return {DATA_KEY: base64.b64encode(content).decode()}
