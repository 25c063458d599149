"""Policies over a websocket, for robots that run no JAX; docs/serving.md tells how to use it."""
