"""Checks of the Kubernetes manifests, beyond what their schemas say."""
