"""Which rule of the table in README.md a test is for."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

__all__ = ["RULES", "rule", "rules_of"]

Test = TypeVar("Test", bound=Callable[..., Any])

RULES: Final = [
    *("C1", "C2", "D1", "D2", "O1", "O2", "X1", "X2", "X3"),
    *("A1", "A2", "A3", "T1", "T2", "T3", "T4", "T5", "T6"),
    *("R1", "R2", "R3", "R4", "R5", "W1", "W2", "W3", "W4", "W5", "W6"),
    *("P1", "K1", "I1", "Q1", "Q2"),
    *("V1", "V2", "V3", "V4", "V5", "V6"),
]


def rule(*ids: str) -> Callable[[Test], Test]:
    """Mark a test with the ids of the rules that it checks. ValueError: there is no such rule."""
    if unknown := set(ids) - set(RULES):
        raise ValueError(f"no rules: {', '.join(sorted(unknown))}")

    def mark(test: Test) -> Test:
        test.__dict__["rules"] = ids
        return test

    return mark


def rules_of(test: object) -> tuple[str, ...]:
    """The ids that a test is marked with."""
    found = getattr(test, "rules", ())
    return found if isinstance(found, tuple) else ()
