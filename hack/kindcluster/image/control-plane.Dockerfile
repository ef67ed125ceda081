# All programs of a control plane in one image; the node has it under every name that kubeadm asks for.
ARG BASE
FROM ${BASE}
COPY . /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/pause"]
