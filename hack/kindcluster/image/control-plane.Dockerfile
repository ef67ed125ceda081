# All programs of a control plane in one image, which the node knows under each of the names that kubeadm asks for.
ARG BASE
FROM ${BASE}
COPY . /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/pause"]
