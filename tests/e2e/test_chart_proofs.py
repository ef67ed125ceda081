"""The chart mounts a token for the audience that the provider presents it to, where the configuration names none."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support.charts import of_kind, render

FILE = "/var/run/proof/token"
REGISTRY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
POOL = "projects/123456789/locations/global/workloadIdentityPools/pool/providers/cluster"
GKE = "identitynamespace:my-project.svc.id.goog:https://container.googleapis.com/v1/projects/p/locations/l/clusters/c"


@pytest.mark.parametrize(
    ("provider", "audience"),
    [
        ({"type": "chainguard"}, "issuer.enforce.dev"),
        ({"type": "quay"}, "quay.io"),
        ({"type": "quay", "audience": "other.example"}, "other.example"),
        ({"type": "acr", "registries": ["team.azurecr.io"]}, "api://AzureADTokenExchange"),
        ({"type": "ecr", "registries": [REGISTRY]}, "sts.amazonaws.com"),
        ({"type": "ecr", "registries": [REGISTRY], "credentials": "podIdentity"}, "pods.eks.amazonaws.com"),
        ({"type": "ecr-public"}, "sts.amazonaws.com"),
        ({"type": "ecr-public", "credentials": "podIdentity"}, "pods.eks.amazonaws.com"),
        (
            {"type": "google", "registries": ["gcr.io"], "workloadIdentityProvider": POOL},
            f"https://iam.googleapis.com/{POOL}",
        ),
        ({"type": "google", "registries": ["gcr.io"], "workloadIdentityProvider": GKE}, "my-project.svc.id.goog"),
    ],
)
def test_the_mounted_token_has_the_audience_that_the_provider_expects(
    provider: dict[str, Any], audience: str, tmp_path: Path
) -> None:
    values = {"config": {"providers": {"x": {**provider, "tokenFile": FILE}}}}
    (deployment,) = of_kind(render(values, tmp_path=tmp_path), "Deployment")
    sources = [
        source["serviceAccountToken"]
        for volume in deployment["spec"]["template"]["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if source.get("serviceAccountToken", {}).get("path") == "token" and "audience" in source["serviceAccountToken"]
    ]
    assert [source["audience"] for source in sources] == [audience]
