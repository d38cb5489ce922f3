"""Synthetic anomalies: what good images are given to learn defects from."""
