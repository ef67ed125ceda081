"""The command line of a person, on a real API server: what it prints, and what it exits with."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from controller.cli import plugin
from testing.controller import COMMAND, ControllerProcess
from testing.mounted import MountedTokens
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.commandline import CANARY, SECONDS, annotations, command, in_pod, kubectl_with_plugin
from tests.e2e.support.installed import MANIFESTS
from tests.e2e.support.tenant import PREFIX, Tenant, token

Tenants = Callable[..., Tenant]
FORMATS = ("table", "wide", "json", "yaml", "name")


@pytest.fixture
def secret(tenants: Tenants) -> Callable[[str], Tenant]:
    """Makes a pull Secret in this state, in a namespace of its own, holding the canary."""

    def make(state: str) -> Tenant:
        tenant = tenants()
        config = {"auths": {"cgr.dev": {"username": "_token", "password": CANARY}}}
        tenant.create("an-identity", config=config, annotations=annotations(state))
        return tenant

    return make


def user(cluster: Cluster, namespace: str, *rules: dict[str, Any]) -> Path:
    """A kubeconfig of a ServiceAccount of the namespace that has these rights there and no other."""
    within = {"metadata": {"name": "person", "namespace": namespace}}
    cluster.api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", within)
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    cluster.api.post(f"{rbac}/roles", {**within, "rules": list(rules)})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "person"}
    subject = {"kind": "ServiceAccount", "name": "person", "namespace": namespace}
    cluster.api.post(f"{rbac}/rolebindings", {**within, "roleRef": reference, "subjects": [subject]})
    return cluster.service_account_kubeconfig(namespace, "person")


@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize(
    ("state", "code"),
    [("valid", 0), ("due", 0), ("paused", 0), ("empty", 1), ("expired", 1), ("refused", 1), ("contested", 1)],
)
def test_status_exits_with_what_it_shows_whatever_the_output(
    cluster: Cluster, secret: Callable[[str], Tenant], state: str, code: int, output: str
) -> None:
    done = command(cluster.kubeconfig, "status", "-n", secret(state).namespace, "-o", output, "-v")
    assert (done.returncode, CANARY in done.stdout + done.stderr) == (code, False), done.stderr
    word = "secret/pull-secret" if output == "name" else {"refused": "Error"}.get(state, state.capitalize())
    assert word in done.stdout


def test_a_warning_is_wrong_for_who_says_so(cluster: Cluster, secret: Callable[[str], Tenant]) -> None:
    where = ("status", "-n", secret("paused").namespace)
    assert [command(cluster.kubeconfig, *where, "--fail-on", each).returncode for each in ("error", "warning")] == [
        0,
        1,
    ]


GOLDEN = {
    80: """\
NAME         STATE    REGISTRIES  EXPIRES  NEXT  LAST ERROR
pull-secret  Expired  cgr.dev     4d ago   now   MintRefused: the issuer refused
                                                 this identity
""",
    160: """\
NAME         STATE    REGISTRIES  EXPIRES  NEXT  LAST ERROR
pull-secret  Expired  cgr.dev     4d ago   now   MintRefused: the issuer refused this identity
""",
}


@pytest.mark.parametrize("columns", [80, 160])
def test_status_fits_the_terminal(cluster: Cluster, secret: Callable[[str], Tenant], columns: int) -> None:
    done = command(cluster.kubeconfig, "status", "-n", secret("expired").namespace, columns=columns)
    assert done.stdout == GOLDEN[columns]
    assert done.stderr == "1 Secret: 1 expired\n"


def test_status_of_all_namespaces_has_the_worst_first(cluster: Cluster, secret: Callable[[str], Tenant]) -> None:
    made = {state: secret(state) for state in ("valid", "contested", "empty", "expired", "due")}
    label = f"probe-{time.monotonic_ns()}"
    for tenant in made.values():
        tenant.patch({"metadata": {"labels": {label: "yes"}}})
    done = command(cluster.kubeconfig, "status", "-A", "-l", label, "--no-headers")
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["Expired", "Empty", "Contested", "Due", "Valid"]
    summary = "5 Secrets: 1 valid, 1 due, 1 contested, 1 empty, 1 expired; soonest expiry in 5d"
    assert done.stderr.splitlines() == [summary]


@pytest.mark.parametrize("output", ["json", "yaml"])
@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ("status", ("status",)),
        ("findings", ("explain", "pull-secret")),
        ("findings", ("doctor",)),
        ("findings", ("refresh", "--all", "--no-wait")),
        ("findings", ("pause", "--all")),
        ("findings", ("release", "--all")),
        ("targets", ("targets", "-f", "/dev/null")),
    ],
)
def test_what_machines_read_is_by_the_schema_that_ships(
    cluster: Cluster, secret: Callable[[str], Tenant], schema: str, arguments: tuple[str, ...], output: str
) -> None:
    done = command(cluster.kubeconfig, *arguments, "-n", secret("expired").namespace, "-o", output)
    found = json.loads(done.stdout) if output == "json" else yaml.safe_load(done.stdout)
    jsonschema.validate(found, json.loads((resources.files("controller.cli") / f"{schema}.schema.json").read_text()))
    if schema == "status":
        (item,) = found["items"]
        assert (item["state"], item["level"], item["reason"]) == ("Expired", "error", "MintRefused")


def test_a_name_that_is_not_there_is_wrong(cluster: Cluster, namespace: str) -> None:
    done = command(cluster.kubeconfig, "status", "missing", "-n", namespace)
    assert done.returncode == 1
    assert f"there is no Secret missing in the namespace {namespace} that asks for an identity" in done.stderr


def test_a_tenant_without_rights_on_secrets_sees_the_events(cluster: Cluster, secret: Callable[[str], Tenant]) -> None:
    tenant = secret("expired")
    subject = {"kind": "Secret", "namespace": tenant.namespace, "name": "pull-secret"}
    event = {"metadata": {"name": "probe"}, "involvedObject": subject, "type": "Warning", "reason": "MintRefused"}
    told = {"message": "MintRefused: told", "source": {"component": "pull-secret-updater"}, "count": 12}
    cluster.api.post(f"/api/v1/namespaces/{tenant.namespace}/events", {**event, **told})
    may_read_events = {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]}
    done = command(user(cluster, tenant.namespace, may_read_events), "status", "-n", tenant.namespace)
    assert done.returncode == 3
    assert done.stdout.splitlines()[1].split() == ["pull-secret", "Unknown", "-", "-", "-", "MintRefused:", "told"]
    assert "cannot list secrets in the namespace" in done.stderr


def test_who_has_no_rights_at_all_is_told_which_and_never_that_all_is_good(cluster: Cluster, namespace: str) -> None:
    done = command(user(cluster, namespace), "status", "-n", namespace)
    assert done.returncode == 3
    assert "cure: ask whoever manages RBAC for the verb list on secrets" in done.stderr


def test_who_may_read_the_secret_by_its_name_sees_it(cluster: Cluster, secret: Callable[[str], Tenant]) -> None:
    namespace = secret("valid").namespace
    by_name = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["pull-secret"], "verbs": ["get", "list"]}
    person = user(cluster, namespace, by_name)
    named = command(person, "status", "pull-secret", "-n", namespace)
    assert (named.returncode, "Valid" in named.stdout) == (0, True), named.stderr
    listed = command(person, "status", "-n", namespace)
    assert (listed.returncode, "Valid" in listed.stdout) == (3, True), "others may be there"
    assert "only Secrets called pull-secret were looked at" in listed.stderr


def test_a_credential_that_has_expired_is_no_finding(cluster: Cluster, tmp_path: Path) -> None:
    view = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json").stdout)
    view["users"][0]["user"] = {"token": "of-yesterday"}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(view))
    done = command(tmp_path / "kubeconfig", "status")
    assert done.returncode == 3
    assert "cure: your credential has expired or is not of this cluster; log in again" in done.stderr


def test_a_cluster_that_does_not_answer_is_no_finding(cluster: Cluster, tmp_path: Path) -> None:
    view = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json").stdout)
    view["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(view))
    done = command(tmp_path / "kubeconfig", "status")
    assert done.returncode == 3
    assert "cure: check the server's address" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--kubeconfig", "/nonexistent/file"), "/nonexistent/file does not exist"),
        (("--context", "nobody"), "the kubeconfig can't be used"),
        (("--request-timeout", "soon"), "'soon' is no duration"),
    ],
)
def test_what_cannot_be_used_exits_with_2(cluster: Cluster, arguments: tuple[str, ...], says: str) -> None:
    done = command(cluster.kubeconfig, "status", *arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_no_kubeconfig_at_all_says_how_to_name_one() -> None:
    done = command(None, "status")
    assert done.returncode == 2
    assert "set KUBECONFIG, or pass --kubeconfig FILE" in done.stderr


def test_a_kubeconfig_that_impersonates_is_refused_and_not_half_understood(cluster: Cluster) -> None:
    done = command(cluster.kubeconfig_for("somebody"), "status")
    assert done.returncode == 2
    assert "impersonates another one (as), which is not supported" in done.stderr


def test_the_namespace_of_the_context_is_the_default(cluster: Cluster, secret: Callable[[str], Tenant]) -> None:
    assert "Valid" in command(cluster.kubeconfig_in(secret("valid").namespace), "status").stdout


@pytest.mark.parametrize(("state", "code"), [("valid", 0), ("expired", 1)])
def test_kubectl_finds_the_plugin_and_passes_its_exit_code_on(
    cluster: Cluster, secret: Callable[[str], Tenant], state: str, code: int
) -> None:
    done = command(cluster.kubeconfig, "status", "-n", secret(state).namespace, as_plugin=True)
    assert (done.returncode, state.capitalize() in done.stdout) == (code, True), done.stderr


def test_a_reader_that_goes_away_is_no_defect(cluster: Cluster, secret: Callable[[str], Tenant]) -> None:
    where = f"'{COMMAND}' status --kubeconfig '{cluster.kubeconfig}' -n {secret('valid').namespace}"
    done = subprocess.run(["bash", "-c", f"{where} | true"], capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr


@pytest.fixture
def installed(cluster: Cluster, manifests: str) -> Any:
    """The Deployment of manifests/ as a cluster with nodes would have it, for as long as the test lasts."""
    everything = yaml.safe_load_all(cluster.kubectl("kustomize", str(MANIFESTS)).stdout)
    (deployment,) = [each for each in everything if each["kind"] == "Deployment"]
    path = "/apis/apps/v1/namespaces/pull-secret-updater/deployments"
    cluster.api.post(path, deployment)
    status = {"status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1}}
    cluster.kubectl(
        *("patch", "deployment", "controller", "-n", "pull-secret-updater", "--subresource=status"),
        *("--type=merge", "-p", json.dumps(status)),
    )
    yield deployment
    cluster.api.delete(f"{path}/controller")


def levels(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    """By id."""
    return {item["id"]: item["level"] for item in json.loads(done.stdout)["items"]}


def test_doctor_finds_nothing_wrong_with_manifests_as_they_are(
    cluster: Cluster, installed: dict[str, Any], secret: Callable[[str], Tenant]
) -> None:
    tenant = secret("valid")
    container = {"name": "web", "image": "cgr.dev/web"}
    spec = {"containers": [container], "imagePullSecrets": [{"name": "pull-secret"}]}
    for path, body in (("serviceaccounts", {}), ("pods", {"spec": {**spec, "serviceAccountName": "default"}})):
        cluster.api.post(f"/api/v1/namespaces/{tenant.namespace}/{path}", {"metadata": {"name": "default"}, **body})
    done = command(cluster.kubeconfig, "doctor", "-n", tenant.namespace, "-o", "json", "-v", "-v")
    assert done.returncode == 0, done.stdout
    found = levels(done)
    # A local cluster's issuer is of the cluster alone.
    assert {id_: level for id_, level in found.items() if level != "ok"} == {"PSU-502": "warning"}
    assert len(found) == 24
    assert not any(text in done.stdout + done.stderr for text in (CANARY, "eyJ"))


@pytest.mark.parametrize("output", FORMATS)
def test_doctor_exits_with_what_it_found_whatever_the_output(
    cluster: Cluster, installed: dict[str, Any], secret: Callable[[str], Tenant], output: str
) -> None:
    namespace = secret("expired").namespace
    assert command(cluster.kubeconfig, "doctor", "-n", namespace, "-o", output).returncode == 1
    nobody = user(cluster, namespace)
    assert command(nobody, "doctor", "-n", namespace, "-o", output).returncode == 3


def test_doctor_for_who_has_no_rights_says_ok_only_of_what_everybody_may_see(
    cluster: Cluster, installed: dict[str, Any], namespace: str
) -> None:
    done = command(user(cluster, namespace), "doctor", "-n", namespace, "-o", "json")
    assert done.returncode == 3
    known = {id_ for id_, level in levels(done).items() if level != "unknown"}
    assert known <= {"PSU-101", "PSU-102", "PSU-103", "PSU-104", "PSU-502"}


def test_doctor_without_the_controller_says_how_to_install_it(cluster: Cluster, namespace: str) -> None:
    done = command(cluster.kubeconfig, "doctor", "-n", namespace)
    assert done.returncode == 1
    assert "PSU-201 no Deployment with the label app.kubernetes.io/name=pull-secret-updater" in done.stdout
    assert "kubectl apply -k manifests/" in done.stdout
    assert command(cluster.kubeconfig, "doctor", "--pre").returncode == 0


EXPLAINED = """\
?     asked     can't tell whether a configured provider serves this identity: no installation was found, see PSU-201
ok    type      kubernetes.io/dockerconfigjson
?     watched   can't tell whether the controller watches this Secret: no installation was found, see PSU-201
?     guarded   can't tell whether only who may use the identity can ask for it: no installation was found, see PSU-201
FAIL  exchange  MintRefused: the issuer refused this identity
                cure: check that it exists and trusts the ServiceAccount that proves it
FAIL  written   the last good token expired 4d ago; it is kept, not wiped
warn  used by   nobody
                cure: name it in imagePullSecrets of a Pod or a ServiceAccount
"""


@pytest.mark.parametrize("columns", [80, 160])
def test_explain_without_an_installation_says_what_the_secret_tells(
    cluster: Cluster, secret: Callable[[str], Tenant], columns: int
) -> None:
    done = command(
        cluster.kubeconfig, "explain", "pull-secret", "-n", secret("expired").namespace, columns=columns, as_plugin=True
    )
    assert (done.stdout, done.returncode) == (EXPLAINED, 1)


@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize(("state", "code"), [("valid", 3), ("expired", 1)])
def test_explain_exits_with_what_it_shows_and_shows_no_credential(
    cluster: Cluster, secret: Callable[[str], Tenant], state: str, code: int, output: str
) -> None:
    where = ("explain", "pull-secret", "-n", secret(state).namespace, "-o", output, "-v", "-v")
    done = command(cluster.kubeconfig, *where)
    assert (done.returncode, CANARY in done.stdout + done.stderr) == (code, False), done.stderr


def test_explain_follows_a_secret_through_manifests_as_they_are(
    cluster: Cluster, installed: dict[str, Any], tenant: Tenant
) -> None:
    tenant.create(annotations=annotations("valid"))
    done = command(cluster.kubeconfig, "explain", "pull-secret", "-n", tenant.namespace)
    assert done.returncode == 0, done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * 6 + ["warn", "cure:"]
    assert f"{tenant.identity} (provider chainguard, from its format) for cgr.dev" in done.stdout


def test_explain_for_a_tenant_shows_what_it_may_see(
    cluster: Cluster, installed: dict[str, Any], tenant: Tenant
) -> None:
    tenant.create(annotations=annotations("refused"))
    by_name = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["pull-secret"], "verbs": ["get"]}
    done = command(user(cluster, tenant.namespace, by_name), "explain", "pull-secret", "-n", tenant.namespace)
    assert done.returncode == 1
    marks = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines() if line[0] != " "}
    assert marks["exchange"] == "FAIL"
    assert {marks[each] for each in ("asked", "type", "watched", "guarded", "used")} == {"?"}


def test_refresh_comes_back_with_a_new_token(
    cluster: Cluster, shared_controller: ControllerProcess, tenant: Tenant
) -> None:
    tenant.create()
    before = token(tenant.filled(timeout=SECONDS).secret)
    done = command(cluster.kubeconfig, "refresh", "pull-secret", "-n", tenant.namespace, "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"ok    {tenant.namespace}/pull-secret  has a new token, which ends in ")
    after = token(tenant.secret())
    assert after != before
    assert not any(credential in done.stdout + done.stderr for credential in (before, after))


def test_refresh_of_an_identity_that_is_refused_says_why(
    cluster: Cluster, shared_controller: ControllerProcess, tenant: Tenant
) -> None:
    tenant.create("not-an-identity")
    done = command(cluster.kubeconfig, "refresh", "--all", "-n", tenant.namespace, "--timeout", "20s")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"FAIL  {tenant.namespace}/pull-secret  IdentityUnrecognised: " in done.stdout


@pytest.mark.parametrize("output", FORMATS)
def test_refresh_without_a_controller_times_out(cluster: Cluster, secret: Callable[[str], Tenant], output: str) -> None:
    where = ("-n", secret("valid").namespace, "--timeout", "1s", "-o", output)
    done = command(cluster.kubeconfig, "refresh", "pull-secret", *where, as_plugin=True)
    assert (done.returncode, CANARY in done.stdout + done.stderr) == (4, False), done.stdout


def test_pause_and_resume_are_seen_by_status(cluster: Cluster, secret: Callable[[str], Tenant]) -> None:
    where = ("pull-secret", "-n", secret("valid").namespace)
    for verb, state in (("pause", "Paused"), ("resume", "Valid")):
        done = command(cluster.kubeconfig, verb, *where)
        assert (done.returncode, CANARY in done.stdout + done.stderr) == (0, False), done.stderr
        assert state in command(cluster.kubeconfig, "status", *where).stdout


def test_who_may_only_read_is_told_which_right_is_missing(cluster: Cluster, secret: Callable[[str], Tenant]) -> None:
    namespace = secret("valid").namespace
    may_read = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}
    done = command(user(cluster, namespace, may_read), "pause", "--all", "-n", namespace)
    assert done.returncode == 1
    assert f"cannot patch secrets in the namespace {namespace}" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("a", "--all"), ("a", "-l", "b=c")])
def test_what_to_refresh_is_said_in_one_way(cluster: Cluster, arguments: tuple[str, ...]) -> None:
    done = command(cluster.kubeconfig, "refresh", *arguments)
    assert done.returncode == 2
    assert "give the names of Secrets, or -l LABELS, or --all" in done.stderr


@pytest.mark.parametrize(
    ("words", "value"), [(("st",), "status"), (("refresh", "--no-w"), "--no-wait"), (("status", "-o", "y"), "yaml")]
)
def test_kubectl_completes_the_plugin(cluster: Cluster, words: tuple[str, ...], value: str) -> None:
    done = kubectl_with_plugin(cluster.kubeconfig, "__complete", "pull-secrets", *words)
    *lines, directive = done.stdout.splitlines()
    assert [line.partition("\t")[0] for line in lines] == [value], done.stderr
    assert directive == ":4", "no file names"


EXAMPLES = [
    line.strip()
    for name, each in sorted(plugin.commands.items())
    for line in (each.help or "").partition("Examples:\n")[2].splitlines()
    if line.strip() and name not in ("check-config", "migrate")
]


def test_every_command_has_two_examples() -> None:
    assert len(EXAMPLES) == 2 * (len(plugin.commands) - 2)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_runs_as_it_is_written(
    cluster: Cluster, installed: dict[str, Any], secret: Callable[[str], Tenant], example: str, tmp_path: Path
) -> None:
    tenant = secret("valid")
    (tmp_path / "config.yaml").write_text("{}")
    program, *arguments = example.replace("team-a", tenant.namespace).replace("team-b", tenant.namespace).split()
    assert program == "pull-secret-updater"
    here = {"2m": "1s", "config.yaml": str(tmp_path / "config.yaml")}
    quick = ["--timeout", "1s"] if arguments == ["refresh", "pull-secret"] else []
    kubeconfig = cluster.kubeconfig_in(tenant.namespace)
    done = command(kubeconfig, *(here.get(each, each) for each in arguments), *quick)
    assert done.returncode in {0, 1, 3, 4}, done.stderr
    assert "Traceback" not in done.stderr
    assert CANARY not in done.stdout + done.stderr


TARGET = "targets: [{name: teams, identity: %s, namespaces: [{names: [%s]}]}]"


@pytest.mark.parametrize("output", FORMATS)
def test_a_plan_says_where_a_target_would_make_its_secret(
    cluster: Cluster, installed: dict[str, Any], tenants: Tenants, tmp_path: Path, output: str
) -> None:
    empty, taken = tenants(), tenants()
    taken.create(annotations=annotations("valid"))
    file = tmp_path / "config.yaml"
    codes = []
    for tenant, word in ((empty, "create"), (taken, "InTheWay")):
        file.write_text(TARGET % (tenant.identity, tenant.namespace))
        done = command(cluster.kubeconfig, "targets", "-f", str(file), "-o", output)
        codes.append(done.returncode)
        assert (word if output != "name" else "secret/pull-secret") in done.stdout, done.stderr
    assert codes == [0, 1]
    nobody = command(user(cluster, empty.namespace), "targets", "-f", str(file), "-o", output)
    assert nobody.returncode == 3


@pytest.mark.parametrize("arguments", [("--help",), ("status", "--help"), ("refresh", "--help"), ("version",)])
def test_help_loads_neither_client_nor_tables(arguments: tuple[str, ...]) -> None:
    program = (
        "import sys; from controller.cli import main; main(standalone_mode=False);"
        "print([name for name in ('aiohttp', 'kubernetes', 'rich') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=SECONDS
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_released_secret_is_its_users_again(
    cluster: Cluster, shared_controller: ControllerProcess, tenant: Tenant
) -> None:
    others = {"auths": {"registry.example": {"auth": "YTpi"}}}
    tenant.create(config=others)
    tenant.filled(timeout=SECONDS)
    done = command(cluster.kubeconfig, "release", "pull-secret", "-n", tenant.namespace, "-v", "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    found = tenant.secret()["metadata"].get("annotations", {})
    assert not any(key.startswith(PREFIX) for key in found)
    assert tenant.config() == others


def test_in_the_controllers_pod_it_sees_what_the_controller_may_see(
    cluster: Cluster, mounted: MountedTokens, secret: Callable[[str], Tenant]
) -> None:
    namespace = secret("expired").namespace
    listed = in_pod(cluster, mounted, "status", "--all-namespaces")
    assert listed.returncode == 1, listed.stderr
    assert f"{namespace} " in listed.stdout
    assert "only Secrets called pull-secret were looked at" in listed.stderr
    assert in_pod(cluster, mounted, "status", "pull-secret", "-n", secret("valid").namespace).returncode == 0
    done = in_pod(cluster, mounted, "doctor", "--group", "cluster", "-o", "json")
    assert (done.returncode, set(levels(done).values())) == (0, {"ok"})
