"""Reads a page as XML, strictly, and says what is in it: one JSON object."""

import json
import sys
from xml.dom import minidom

page = minidom.parse(sys.stdin.buffer)
elements = page.getElementsByTagName("*")


def text(node):
    return "".join(child.data if child.nodeType == child.TEXT_NODE else text(child) for child in node.childNodes)


rows = [[text(cell) for cell in row.getElementsByTagName("td")] for row in page.getElementsByTagName("tr")]
print(
    json.dumps(
        {
            "elements": sorted({element.tagName for element in elements}),
            "attributes": sorted({name for element in elements for name in element.attributes.keys()}),
            "policy": [
                meta.getAttribute("content")
                for meta in page.getElementsByTagName("meta")
                if meta.getAttribute("http-equiv") == "Content-Security-Policy"
            ],
            "rows": [row for row in rows if row],
            "bars": sum(1 for rect in page.getElementsByTagName("rect") if rect.getElementsByTagName("title")),
        }
    )
)
