"""Websocket server for policies, for robots without JAX; see docs/guides/serving.md."""
