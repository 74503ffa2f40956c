"""Shared by the families' torch modules: base classes, docstrings, and the replacement of classes in models."""
