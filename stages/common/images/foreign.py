"""Files that have the name of an image but another content: their kind leads to the remedy."""

CONVERT = "(convert it to PNG or JPEG)"
AGAIN = "(download the image again)"

_STARTS = (
    (b"version https://git-lfs", "Git LFS pointer in place of the image (run `git lfs pull`)"),
    (b"version https://hawser", "Git LFS pointer in place of the image (run `git lfs pull`)"),
    (b"GIF8", f"GIF image {CONVERT}"),
    (b"BM", f"BMP image {CONVERT}"),
    (b"II*\0", f"TIFF image {CONVERT}"),
    (b"MM\0*", f"TIFF image {CONVERT}"),
    (b"\0\0\0\x0cjP  ", f"JPEG 2000 image {CONVERT}"),
    (b"\xff\x0a", f"JPEG XL image {CONVERT}"),
    (b"\0\0\0\x0cJXL ", f"JPEG XL image {CONVERT}"),
    (b"%PDF", f"PDF file {CONVERT}"),
    (b"PK\x03\x04", "ZIP file (unpack it)"),
    (b"\x1f\x8b", "gzip file (unpack it)"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "HEIC")
_TEXTS = (
    (b"<!doctype html", f"HTML page in place of the image {AGAIN}"),
    (b"<html", f"HTML page in place of the image {AGAIN}"),
    (b"<svg", f"SVG drawing {CONVERT}"),
    (b"<?xml", f"XML file in place of the image {AGAIN}"),
    (b"{", f"JSON text in place of the image {AGAIN}"),
)


def what_it_is(content: bytes) -> str:
    """The kind of a file that is neither PNG nor JPEG, by its first bytes, with the remedy in brackets."""
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return f"WebP image {CONVERT}"
    if content[4:8] == b"ftyp" and (kind := _BRANDS.get(content[8:12])):
        return f"{kind} image {CONVERT}"
    for start, what in _STARTS:
        if content.startswith(start):
            return what
    text = content[:200].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, what in _TEXTS:
        if text.startswith(start):
            return what
    if not content.strip(b"\0"):
        return f"nothing but zeros {AGAIN}"
    return "not a PNG or JPEG image"
