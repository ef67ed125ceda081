"""What a node image for kind is made of."""

from hack.kindcluster.nodeimage import KIND


def test_the_pinned_kind_has_the_files_that_a_node_image_is_made_of() -> None:
    files = KIND.source("sigs.k8s.io/kind") / "images" / "base" / "files"
    for name in ("usr/local/bin/entrypoint", "kind/bin/mount-product-files.sh", "etc/systemd/system/kubelet.service"):
        assert (files / name).is_file()
    assert 'sandbox_image = "' in (files / "etc/containerd/config.toml").read_text()
    assert "restrict_oom_score_adj = false" in (files / "etc/containerd/config.toml").read_text()
