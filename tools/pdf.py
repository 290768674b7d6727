"""Converts Markdown to PDF with Typst, a wheel that includes its fonts."""

import json
from pathlib import Path

import typst
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from src.files import atomic_write

PAGE = """
#set document(title: TITLE, author: "The age and gender repository's authors", date: none)
#set page(paper: "a4", margin: (x: 2.2cm, y: 2.4cm), numbering: "1")
#set text(font: "Libertinus Serif", size: 10.5pt, lang: "en", region: "GB")
#set par(justify: true, leading: 0.62em, spacing: 1em)
#show heading: set text(hyphenate: false)
#set figure(placement: auto)
#let picture(path) = context {
  let size = measure(image(path))
  image(path, width: if size.height > 0.7 * size.width { 62% } else { 100% })
}
#show heading.where(level: 1): it => align(center, block(below: 1.6em, text(size: 1.35em, it.body)))
#show heading.where(level: 2): set block(above: 1.7em, below: 0.9em)
#show heading.where(level: 3): set block(above: 1.4em, below: 0.8em)
#show raw: set text(font: "DejaVu Sans Mono", size: 0.86em)
#show raw.where(block: true): it => block(fill: luma(244), inset: 8pt, radius: 3pt, width: 100%, it)
#show figure.caption: set text(size: 0.88em, fill: luma(70))
#show figure: set block(above: 1.3em, below: 1.4em)
#show table: set text(size: 0.84em)
#show table: set par(justify: false, leading: 0.5em)
#show table.cell.where(y: 0): set text(weight: "bold")
#set table(stroke: (x, y) => (bottom: if y == 0 { 0.8pt } else { 0.3pt + luma(200) }), inset: (x: 4pt, y: 4pt))
#show link: set text(fill: rgb("#0072B2"))
"""


def write(text: str, folder: Path, target: Path) -> None:
    """Writes Markdown as PDF, atomically.

    Args:
        text: CommonMark with tables.
        folder: The folder to which the paths of images are relative.
        target: The PDF file.

    Raises:
        ValueError: The text contains something that cannot be converted, or an image is missing.
    """
    try:
        content = typst.compile(source(text).encode(), root=str(folder), ignore_system_fonts=True)  # type: ignore[type-var]
    except typst.TypstError as error:
        raise ValueError(f"the report cannot be converted to PDF: {error}") from error
    with atomic_write(target) as new:
        new.write_bytes(content)


def source(text: str) -> str:
    """Returns the Typst source of a Markdown text."""
    tree = SyntaxTreeNode(MarkdownIt().enable("table").parse(text))
    title = next((_plain(node) for node in tree.children if node.type == "heading"), "")
    return PAGE.replace("TITLE", json.dumps(title, ensure_ascii=False)) + _convert_children(tree)


def _plain(node: SyntaxTreeNode) -> str:
    return node.content if node.type == "text" else "".join(map(_plain, node.children))


def _convert_children(node: SyntaxTreeNode) -> str:
    return "".join(map(_convert, node.children))


def _convert(node: SyntaxTreeNode) -> str:
    """Returns a node of Markdown in Typst. Text becomes string literals, so that it is never read as markup."""
    kind = node.type
    if kind == "text":
        return f"#{_quoted(node.content)};"
    if kind == "code_inline":
        return f"#raw({_quoted(node.content)});"
    if kind in ("fence", "code_block"):
        return f"#raw({_quoted(node.content.rstrip())}, block: true);\n"
    if kind == "heading":
        return f"\n#heading(level: {node.tag[1:]})[{_convert_children(node)}]\n"
    if kind == "paragraph":
        return f"\n{_convert_children(node)}\n\n"
    if kind in ("bullet_list", "ordered_list"):
        items = ", ".join(f"[{_convert_children(item)}]" for item in node.children)
        return f"\n#{'list' if kind == 'bullet_list' else 'enum'}({items})\n"
    if kind == "table":
        return _table(node)
    if kind == "image":
        return f"#figure(picture({_quoted('/' + str(node.attrs['src']))}), caption: [{_convert_children(node)}])"
    if kind == "link":
        address = str(node.attrs["href"])
        return f"#link({_quoted(address)})[{_convert_children(node)}]" if "://" in address else _convert_children(node)
    if kind in ("strong", "em"):
        return f"#{'emph' if kind == 'em' else kind}[{_convert_children(node)}]"
    if kind in ("softbreak", "hardbreak"):
        return " " if kind == "softbreak" else " \\ "
    if kind == "inline":
        return _convert_children(node)
    raise ValueError(f"the report's Markdown contains {kind}, which tools/pdf.py cannot convert: remove it")


def _table(node: SyntaxTreeNode) -> str:
    rows = [row for part in node.children for row in part.children]
    sides = ["right" if "right" in str(cell.attrs.get("style")) else "left" for cell in rows[0].children]
    header, *body = (", ".join(f"[{_convert_children(cell)}]" for cell in row.children) for row in rows)
    columns = f"(2fr, {'1fr, ' * (len(sides) - 1)})" if len(sides) > 5 else len(sides)
    content = ", ".join([f"columns: {columns}, align: ({', '.join(sides)}), table.header({header})", *body])
    return f"\n#align(center, block(breakable: false, table({content})))\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
