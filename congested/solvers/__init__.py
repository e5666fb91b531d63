"""How a problem with cell data is solved: one linear solve, one space, one mesh."""
