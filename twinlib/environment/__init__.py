"""Cells to steer: the in-silico twin's world, its dynamics, and other libraries' interface to it."""
