"""Where the API server is and who we are, from files alone."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.kube import auth
from controller.kube.auth import Kubeconfig, from_kubeconfig, in_cluster
from controller.kube.errors import StartError, Unauthorized
from tests.unit.virtual_time import Clock

CANARY = "canary-77ab"


@pytest.fixture
def pod(tmp_path: Path) -> dict[str, str]:
    """The environment of a Pod."""
    for name, content in (("token", "token-1\n"), ("ca.crt", "a certificate"), ("namespace", "team-a\n")):
        (tmp_path / name).write_text(content)
    return {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "PULL_SECRET_UPDATER_SERVICEACCOUNT_DIR": str(tmp_path),
    }


async def test_a_pod_knows_its_server_and_its_token(pod: dict[str, str], clock: Clock) -> None:
    access = in_cluster(pod, now=clock)
    assert access.url == "https://10.0.0.1:443"
    assert await access.headers() == {"Authorization": "Bearer token-1"}


def test_an_ipv6_server_is_bracketed(pod: dict[str, str], clock: Clock) -> None:
    assert in_cluster({**pod, "KUBERNETES_SERVICE_HOST": "fd00::1"}, now=clock).url == "https://[fd00::1]:443"


async def test_the_token_is_read_again_every_minute(pod: dict[str, str], clock: Clock, tmp_path: Path) -> None:
    """T1: and not at every request."""
    access = in_cluster(pod, now=clock)
    await access.headers()
    (tmp_path / "token").write_text("token-2")
    await asyncio.sleep(59)
    assert await access.headers() == {"Authorization": "Bearer token-1"}
    await asyncio.sleep(1)
    assert await access.headers() == {"Authorization": "Bearer token-2"}


async def test_the_token_is_read_at_once_after_a_401(pod: dict[str, str], clock: Clock, tmp_path: Path) -> None:
    """T1, F16."""
    access = in_cluster(pod, now=clock)
    await access.headers()
    (tmp_path / "token").write_text("token-2")
    access.rejected()
    assert await access.headers() == {"Authorization": "Bearer token-2"}


async def test_a_clock_set_back_does_not_keep_an_old_token(pod: dict[str, str], clock: Clock, tmp_path: Path) -> None:
    """F19."""
    access = in_cluster(pod, now=clock)
    await access.headers()
    (tmp_path / "token").write_text("token-2")
    clock.step(-3600)
    assert await access.headers() == {"Authorization": "Bearer token-2"}


@pytest.mark.parametrize("content", [None, b"", b" \n", b"two\nlines", b"\xff\xfe", "ümlaut".encode()])
async def test_an_unusable_token_file_is_an_api_error_without_its_content(
    pod: dict[str, str], clock: Clock, tmp_path: Path, content: bytes | None
) -> None:
    """A reflector backs off; nothing is sent, nothing dies, nothing is quoted."""
    access = in_cluster(pod, now=clock)
    (tmp_path / "token").unlink()
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(Unauthorized) as raised:
        await access.headers()
    assert "two" not in str(raised.value)


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "token", "ca.crt"])
def test_what_is_missing_is_named(pod: dict[str, str], clock: Clock, tmp_path: Path, missing: str) -> None:
    if missing in pod:
        del pod[missing]
    else:
        (tmp_path / missing).unlink()
    with pytest.raises(StartError, match=missing):
        in_cluster(pod, now=clock)


def kubeconfig(path: Path, *, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> Path:
    """A kubeconfig of one context."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team-a"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


def plugin(directory: Path, *, status: str, exit_code: int = 0) -> Path:
    """An exec plugin that counts its runs and prints `status`, with {n} as the number of the run."""
    path = directory / "plugin"
    path.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        f"runs = pathlib.Path({str(directory / 'runs')!r})\n"
        "n = len(runs.read_text()) + 1 if runs.exists() else 1\n"
        "runs.write_text('x' * n)\n"
        'print(\'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":\'\n'
        f"      + {status!r}.replace('{{n}}', str(n)) + '}}')\n"
        f"sys.exit({exit_code})\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def exec_user(command: Path) -> dict[str, Any]:
    """A user of an exec plugin."""
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(command),
            "interactiveMode": "Never",
        }
    }


async def test_a_token_of_a_kubeconfig_is_sent(tmp_path: Path, clock: Clock) -> None:
    access = await from_kubeconfig(kubeconfig(tmp_path / "config", user={"token": "abc"}), now=clock)
    assert access.url == "https://127.0.0.1:6443"
    assert await access.headers() == {"Authorization": "Bearer abc"}


async def test_a_token_file_of_a_kubeconfig_is_read_again_after_a_401(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "token").write_text("abc")
    access = await from_kubeconfig(kubeconfig(tmp_path / "config", user={"tokenFile": "token"}), now=clock)
    (tmp_path / "token").write_text("def")
    assert await access.headers() == {"Authorization": "Bearer abc"}
    access.rejected()
    assert await access.headers() == {"Authorization": "Bearer def"}


async def test_client_certificates_are_files_and_no_header(tmp_path: Path, clock: Clock) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(name)
    data = base64.b64encode(b"inline ca").decode()
    path = kubeconfig(
        tmp_path / "config",
        user={"client-certificate": "cert", "client-key": str(tmp_path / "key")},
        cluster={"certificate-authority-data": data},
    )
    access = await from_kubeconfig(path, now=clock)
    assert await access.headers() == {}
    loaded = access._loaded
    assert loaded is not None
    assert loaded.client_certificate == (tmp_path / "cert", tmp_path / "key")
    assert loaded.ca_file is not None
    assert loaded.ca_file.read_text() == "inline ca"
    assert loaded.verify


async def test_verification_is_off_only_where_the_kubeconfig_says_so(tmp_path: Path, clock: Clock) -> None:
    path = kubeconfig(tmp_path / "config", user={"token": "abc"}, cluster={"insecure-skip-tls-verify": True})
    access = await from_kubeconfig(path, now=clock)
    assert access._loaded is not None
    assert not access._loaded.verify


def test_an_exec_plugin_is_run_once_and_again_after_a_401(tmp_path: Path, clock: Clock) -> None:
    """Without an end its credential holds until it is refused. A real loop: processes don't mix with virtual time."""
    command = plugin(tmp_path, status='{"token":"token-{n}"}')

    async def story() -> list[dict[str, str]]:
        access = await from_kubeconfig(kubeconfig(tmp_path / "config", user=exec_user(command)), now=lambda: 0.0)
        seen = [await access.headers(), await access.headers()]
        access.rejected()
        return [*seen, *await asyncio.gather(access.headers(), access.headers())]

    expected = [{"Authorization": f"Bearer token-{n}"} for n in (1, 1, 2, 2)]
    assert asyncio.run(story()) == expected


def test_an_exec_plugin_is_run_before_its_credential_ends(tmp_path: Path) -> None:
    """At 80 % of what is left when it is read."""
    command = plugin(tmp_path, status='{"token":"token-{n}","expirationTimestamp":"2026-01-01T01:00:00Z"}')
    start, now = 1767225600.0, [1767225600.0]

    async def story() -> list[str]:
        access = await from_kubeconfig(kubeconfig(tmp_path / "config", user=exec_user(command)), now=lambda: now[0])
        seen = []
        for now[0] in (start, start + 2879, start + 2880):
            seen.append((await access.headers())["Authorization"])
        return seen

    assert asyncio.run(story()) == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


def test_a_plugin_that_fails_is_told_without_what_it_printed(tmp_path: Path) -> None:
    command = plugin(tmp_path, status=json.dumps({"token": CANARY}), exit_code=3)
    with pytest.raises(StartError, match="exec plugin") as raised:
        asyncio.run(from_kubeconfig(kubeconfig(tmp_path / "config", user=exec_user(command)), now=lambda: 0.0))
    assert CANARY not in str(raised.value)


async def test_without_the_official_client_a_kubeconfig_says_what_to_install(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not in the image, where no kubeconfig is read."""
    monkeypatch.setitem(sys.modules, "kubernetes.aio", None)
    with pytest.raises(StartError, match=r"pip install pull-secret-updater\[kubeconfig\]"):
        await from_kubeconfig(tmp_path / "kubeconfig", now=clock)


async def test_several_kubeconfigs_are_one_and_missing_ones_are_passed_over(tmp_path: Path, clock: Clock) -> None:
    """As kubectl reads KUBECONFIG; here the context is in one file and its user in another."""
    whole = yaml.safe_load(kubeconfig(tmp_path / "config", user={"token": "abc"}).read_text())
    users = {key: whole.pop(key) for key in ("users",)}
    (tmp_path / "contexts").write_text(yaml.safe_dump({**whole, "users": []}))
    (tmp_path / "users").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **users}))
    paths = f"{tmp_path / 'missing'}:{tmp_path / 'contexts'}:{tmp_path / 'users'}"
    access = await from_kubeconfig(Path(paths), now=clock)
    assert await access.headers() == {"Authorization": "Bearer abc"}


async def test_several_kubeconfigs_of_which_none_is_there_are_named(tmp_path: Path, clock: Clock) -> None:
    paths = f"{tmp_path / 'one'}:{tmp_path / 'two'}"
    with pytest.raises(StartError, match=f"{paths} does not exist"):
        await from_kubeconfig(Path(paths), now=clock)


async def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(StartError, match="nowhere"):
        await from_kubeconfig(tmp_path / "nowhere", now=clock)


@pytest.mark.parametrize("content", ["", "[1", "a: b", "current-context: x\ncontexts: 3", f"users: [{CANARY}]"])
async def test_a_broken_kubeconfig_is_told_without_its_content(tmp_path: Path, clock: Clock, content: str) -> None:
    """The client's own words quote a whole user, token and all."""
    (tmp_path / "config").write_text(content)
    with pytest.raises(StartError) as raised:
        await from_kubeconfig(tmp_path / "config", now=clock)
    assert CANARY not in str(raised.value)


async def test_a_reload_that_fails_is_an_api_error(tmp_path: Path, clock: Clock) -> None:
    """The reflector backs off; the file may come back."""
    path = kubeconfig(tmp_path / "config", user={"token": "abc"})
    access = await from_kubeconfig(path, now=clock)
    access.rejected()
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(Unauthorized):
        await access.headers()
    (tmp_path / "elsewhere").rename(path)
    assert await access.headers() == {"Authorization": "Bearer abc"}


def test_an_access_prints_no_credential(tmp_path: Path, clock: Clock) -> None:
    """X2."""

    async def load() -> Kubeconfig:
        return await from_kubeconfig(kubeconfig(tmp_path / "config", user={"token": CANARY}), now=clock)

    assert CANARY not in repr(asyncio.run(load())._loaded)


def test_a_plugin_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 30 s, which nobody has to wait for here."""
    monkeypatch.setattr(auth, "_KUBECONFIG_SECONDS", 0.1)
    command = tmp_path / "plugin"
    command.write_text("#!/bin/sh\nexec sleep 0.3\n")
    command.chmod(0o755)

    async def story() -> None:
        with pytest.raises(StartError, match="within 30 s"):
            await from_kubeconfig(kubeconfig(tmp_path / "config", user=exec_user(command)), now=lambda: 0.0)
        await asyncio.sleep(0.4)  # the plugin's end, so that nothing of it is left to the garbage collector

    asyncio.run(story())
    gc.collect()
