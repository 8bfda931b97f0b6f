"""Policies and their training on any batched task; nothing here knows a cell."""
