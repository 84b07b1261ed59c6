"""Supernets: all networks of a space in one, trained together, and what that says of each."""
