"""The server of real devices: registry, certificates, SuperLink, runs."""
