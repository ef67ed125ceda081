"""Many writers of one ServiceAccount on a real API server: its imagePullSecrets are one list that each replaces."""

import asyncio
import time

from controller.core.model import Ref
from controller.core.projection import project_account
from controller.engine.accounts import Accounts
from controller.kube import auth
from controller.kube.client import KubeClient
from controller.kube.errors import Conflict
from tests.e2e.support.cluster import Cluster

CONTROLLERS = 3
EACH = 334


async def append(cluster: Cluster, ref: Ref, installation: str, names: list[str]) -> int:
    """As a controller of that name attaches one Secret after the other. Returns how often another one was faster."""
    access = await auth.from_kubeconfig(cluster.kubeconfig, now=time.time)
    transport = access.transport(connections=4)
    client = KubeClient(access=access, requests=transport, watches=transport, now=time.time)
    conflicts = 0
    accounts = Accounts([ref.name], installation=installation, client=client, changed=lambda _: None, now=time.time)
    try:
        accounts.upserted(project_account(await client.get_service_account(ref), installation=installation))
        for index in range(len(names)):
            while True:
                try:
                    await accounts.attach(ref, names[: index + 1])
                    break
                except Conflict:
                    conflicts += 1
    finally:
        await transport.close()
    return conflicts


def test_three_controllers_append_a_thousand_names_to_one_service_account_and_none_is_lost_doubled_or_moved(
    cluster: Cluster, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    before = [{"name": "first"}, {"name": "last"}]
    cluster.api.post(path, {"metadata": {"name": "default"}, "imagePullSecrets": before})
    names = {f"ns-{who}.controller": [f"s{who}-{each:03}" for each in range(EACH)] for who in range(CONTROLLERS)}

    async def everybody() -> list[int]:
        ref = Ref(namespace, "default")
        return await asyncio.gather(*(append(cluster, ref, one, own) for one, own in names.items()))

    conflicts = asyncio.run(everybody())
    found = [each["name"] for each in cluster.api.get(f"{path}/default")["imagePullSecrets"]]
    assert found[:2] == ["first", "last"]
    assert len(found) == len(set(found)) == 2 + CONTROLLERS * EACH
    for own in names.values():
        assert [name for name in found if name in own] == own
    assert sum(conflicts) > 0, "they got into each other's way"
