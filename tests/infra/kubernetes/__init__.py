"""Checks of the manifests in infra/kubernetes, without an API server: schemas, policies, and the commands of the containers."""
