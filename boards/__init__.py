"""Boards and host-side runtime."""
