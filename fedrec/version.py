"""The version of fedrec, in one place: the build, the messages between devices and server, and the cards read it."""

__version__ = "0.1.0"
