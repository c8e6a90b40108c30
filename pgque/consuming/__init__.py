"""Consuming: handlers, and the fate of a batch and of each message. For pgque alone."""
