"""One program for each family, whose results have the types that ``assert_type`` states.

``make lint`` checks them with mypy and pyright; ``tests/core/text/test_types.py`` runs them, and compares the types
with those of the values.
"""
