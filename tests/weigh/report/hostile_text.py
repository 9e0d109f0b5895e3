"""Text a model might write, or be made to write, to take over the page that shows it."""

# fmt: off
HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "<svg/onload=alert(3)>", "<!--", "-->", "<![CDATA[", "]]>",
    "<!doctype html>", "<style>*{display:none}</style>", "</style>", "</title>", "</textarea>", "<base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>", "javascript:alert(4)", "\"'`onmouseover=alert(5)",
    "' onfocus='alert(6)' autofocus='", "{{ 7*7 }}{% raw %}", "${alert(7)}", "&lt;b&gt;&amp;", "&#x3c;script&#x3e;",
    "\u202eright to left override\u202c", "\u2066isolate", "\u200f\u200e\u061c", "\x00NUL", "\x1b[31mred\x1b[0m",
    "\x07\x08\x7f\x9b31m",
    "\ud83d lone", "lone \udc00", "\ufeff\u200b\u2060", "line\u2028separator\u2029paragraph", "\r\n\r carriage", "tab\tand\nnewline",
    "a" * 5000, "é" * 3000, "क्षि नमस्ते", "مرحبا بالعالم", "\U0001f469\u200d\U0001f52c", "\U000e0041\U000e0042", "\ufffe\uffff",
    "", " ", "\n" * 500, "[bold red]markup[/]", "[/]", "..\\..\\x", "../../etc/passwd", "C:\\x", "%s %d {0}", "NaN",
    "__proto__", "constructor",
]
# fmt: on
