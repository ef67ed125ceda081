"""Logs in to a registry as `docker login` does, by the OCI distribution protocol.

No code is shared with the controller.
"""

import re

import urllib3

SECONDS = 5.0
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


def login(host: str, user: str, password: str) -> bool:
    """Whether a registry on loopback lets this credential in: by Basic or Bearer, whatever it asks for."""
    pool, door = urllib3.PoolManager(retries=False), f"http://{host}/v2/"
    asked = pool.request("GET", door, timeout=SECONDS)
    assert asked.status == 401, f"{host} lets everyone in"
    scheme, _, rest = asked.headers["WWW-Authenticate"].partition(" ")
    credential = urllib3.make_headers(basic_auth=f"{user}:{password}")
    if scheme == "Bearer":
        parameters = dict(_PARAMETER.findall(rest))
        fields = {"service": parameters["service"], "scope": "repository:team/app:pull", "account": user}
        token = pool.request("GET", parameters["realm"], fields=fields, headers=credential, timeout=SECONDS)
        if token.status != 200:
            return False
        credential = {"Authorization": f"Bearer {token.json()['token']}"}
    return pool.request("GET", door, headers=credential, timeout=SECONDS).status == 200
