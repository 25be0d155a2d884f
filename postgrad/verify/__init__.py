"""(Problem, Trace) -> Verdict."""
