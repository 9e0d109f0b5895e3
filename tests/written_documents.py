"""Documents of every kind, written byte by byte for tests."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence

TYPES = '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
S = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
P = 'xmlns:p="urn:p" xmlns:a="urn:a" xmlns:r="urn:r"'


def pdf(pages: Sequence[str]) -> bytes:
    """A PDF with one line of text on each page."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        drawn = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return bytes(out) + end.encode()


def scanned(pages: Sequence[bytes | str]) -> bytes:
    """A PDF of JPEG pictures, one filling each page, as a scanner writes it; a page given as a text holds that text."""
    import pypdfium2
    from PIL import Image

    out = io.BytesIO()
    document = pypdfium2.PdfDocument.new()
    for one in pages:
        if isinstance(one, str):
            with pypdfium2.PdfDocument(pdf([one])) as written:
                document.import_pages(written)
            continue
        with Image.open(io.BytesIO(one)) as drawn:
            width, height = drawn.size
        page = document.new_page(width * 0.75, height * 0.75)
        picture = pypdfium2.PdfImage.new(document)
        picture.load_jpeg(io.BytesIO(one), inline=True)
        picture.set_matrix(pypdfium2.PdfMatrix().scale(width * 0.75, height * 0.75))
        page.insert_obj(picture)
        page.gen_content()
        page.close()
    document.save(out)
    document.close()
    return out.getvalue()


def archive(files: Mapping[str, str | bytes]) -> bytes:
    """An archive with the mark of an office document."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in {"[Content_Types].xml": TYPES, **files}.items():
            written.writestr(name, content)
    return out.getvalue()


def docx(paragraphs: Sequence[tuple[str, str]], before: str = "") -> bytes:
    """A Word document of paragraphs, each with its style (`Heading1`, `Normal`)."""
    body = "".join(f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>' for style, text in paragraphs)
    return archive({"word/document.xml": f'<?xml version="1.0"?>{before}<w:document {W}><w:body>{body}</w:body></w:document>'})


def xlsx(sheets: Mapping[str, Sequence[Sequence[str]]]) -> bytes:
    """A workbook whose cells are shared strings."""
    strings = sorted({cell for rows in sheets.values() for row in rows for cell in row})
    places = {text: number for number, text in enumerate(strings)}
    named = "".join(f'<sheet name="{title}" sheetId="{n}" r:id="rId{n}"/>' for n, title in enumerate(sheets, 1))
    relations = "".join(f'<Relationship Id="rId{n}" Target="worksheets/sheet{n}.xml"/>' for n in range(1, len(sheets) + 1))
    files = {
        "xl/workbook.xml": f"<workbook {S}><sheets>{named}</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f"<Relationships>{relations}</Relationships>",
        "xl/sharedStrings.xml": f"<sst {S}>{''.join(f'<si><t>{text}</t></si>' for text in strings)}</sst>",
    }
    for n, rows in enumerate(sheets.values(), 1):
        written = ([f"<c t='s'><v>{places[cell]}</v></c>" for cell in row] for row in rows)
        cells = "".join(f"<row>{''.join(row)}</row>" for row in written)
        files[f"xl/worksheets/sheet{n}.xml"] = f"<worksheet {S}><sheetData>{cells}</sheetData></worksheet>"
    return archive(files)


def pptx(slides: Sequence[str]) -> bytes:
    """A show of slides with one line each."""
    ids = "".join(f'<p:sldId id="{255 + n}" r:id="rId{n}"/>' for n in range(1, len(slides) + 1))
    relations = "".join(f'<Relationship Id="rId{n}" Target="slides/slide{n}.xml"/>' for n in range(1, len(slides) + 1))
    drawn = {f"ppt/slides/slide{n}.xml": f"<p:sld {P}><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:sld>" for n, text in enumerate(slides, 1)}
    show = f"<p:presentation {P}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>"
    return archive(
        {"ppt/presentation.xml": show, "ppt/_rels/presentation.xml.rels": f"<Relationships>{relations}</Relationships>", **drawn}
    )
