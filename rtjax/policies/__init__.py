"""Policies, action filters and robot interfaces."""
