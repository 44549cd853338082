"""Numbers as the page shows them."""

from __future__ import annotations

_MINUS = "\N{MINUS SIGN}"


def figure(value: float | None) -> str:
    """Three decimals below 10, one above; "" for None and NaN."""
    if value is None or value != value:
        return ""
    digits = 3 if abs(value) < 10 else 1
    return f"{value:.{digits}f}".replace("-", _MINUS)


def signed(value: float | None) -> str:
    """``figure`` with its sign."""
    shown = figure(value)
    return shown if not shown or shown.startswith(_MINUS) else f"+{shown}"


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """Both ends of an interval; "" where there is none."""
    form = signed if sign else figure
    return f"{form(low)} to {form(high)}" if low is not None and high is not None else ""


def percent(value: float | None) -> str:
    """A share in whole percent, below 10 % with one decimal; "" for None."""
    if value is None:
        return ""
    return f"{100 * value:.{1 if 0 < value < 0.1 else 0}f} %"


def duration(seconds: float) -> str:
    """Seconds to two digits, whole from 10 on."""
    if 0 < seconds < 0.01:
        return "< 0.01"
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def p_value(p: float | None) -> str:
    """A p as it is written in papers; "" for None."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(value: float) -> str:
    """A whole number with separators."""
    return f"{value:,.0f}"
