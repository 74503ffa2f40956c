"""The steps of a run on a card: each module lists the items of one or more."""
