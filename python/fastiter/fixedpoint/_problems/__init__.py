"""Problems with a fixed point of their own: refinement of linear systems, optimal transport."""
