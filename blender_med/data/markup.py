"""XML that is safe to parse: no entity expansion, nothing fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blender_med.data.files import RowError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def parse_xml(data: bytes) -> Element:
    """Root element of a document.

    Raises:
        RowError: It is not well-formed, or defines entities.
    """
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        return fromstring(data)
    except DefusedXmlException as error:
        raise RowError(f"unsafe XML: {error}") from error
    except (ParseError, ValueError, LookupError, RecursionError) as error:
        raise RowError(f"not well-formed XML: {error}") from error


def inner_text(element: Element | None) -> str:
    """All text below ``element``, without tags; empty for None."""
    return "" if element is None else "".join(element.itertext())


def children(element: Element, *tags: str) -> list[Element]:
    """Direct children with one of the tags, in whatever case the document writes them."""
    return [child for child in element if str(child.tag).lower() in tags]


def child_text(element: Element, *tags: str) -> str:
    """Text of the first direct child with one of the tags; empty where there is none."""
    found = children(element, *tags)
    return inner_text(found[0]).strip() if found else ""
