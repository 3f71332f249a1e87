"""Heads that a server must refuse: for their line ends, request lines, targets, hosts or fields."""

from __future__ import annotations

from corpus.entries import HOST, Entry, Found, get, head, post


def refused(name: str, section: str, raw: bytes, status: int = 400) -> Entry:
    return Entry(name, section, raw, refusal=status)


def after_one(name: str, section: str, raw: bytes, status: int = 400) -> Entry:
    """Return an entry whose first request is valid and whose second one is refused."""
    return Entry(name, section, get() + raw, (Found(),), status)


LINE_ENDS = [
    refused("bare LF ends the request line", "9112 2.2", b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    refused("bare LF ends a field", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    refused("bare LF ends the head", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    refused("bare LF everywhere", "9112 2.2", b"GET / HTTP/1.1\nHost: a\n\n"),
    refused("bare LF before a request", "9112 2.2", b"\n" + get()),
    refused("bare LF after an empty line", "9112 2.2", b"\r\n\n" + get()),
    after_one("bare LF between requests", "9112 2.2", b"\n" + get()),
    after_one("bare CR between requests", "9112 2.2", b"\r" + get()),
    refused("bare CR before a request", "9112 2.2", b"\r" + get()),
    refused("two CR before LF", "9112 2.2", b"\r\r\n" + get()),
    refused("two CR end the request line", "9112 2.2", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
    refused("two CR end a field", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    refused("two CR end the head", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n"),
    refused("CR ends the request line", "9112 2.2", b"GET / HTTP/1.1\rHost: a\r\n\r\n"),
    refused("CR begins a field", "9112 2.2", b"GET / HTTP/1.1\r\n\rHost: a\r\n\r\n"),
    refused("bare CR in a value", "9112 2.2", get(b"X: a\rb")),
    refused("bare CR hides a field", "9112 2.2", get(b"X: a\rContent-Length: 3") + b"abc"),
    refused("white space before the first field", "9112 2.2",
            head(b"GET / HTTP/1.1", b" X: a", HOST)),
    refused("tab before the first field", "9112 2.2", head(b"GET / HTTP/1.1", b"\tX: a", HOST)),
    refused("nine empty lines", "9112 2.2", b"\r\n" * 9 + get()),
]  # fmt: skip

REQUEST_LINES = [
    refused("HTTP/0.9", "9112 2.3", head(b"GET / HTTP/0.9", HOST), 505),
    refused("HTTP/1.2", "9110 15.6.6", head(b"GET / HTTP/1.2", HOST), 505),
    refused("HTTP/2.0", "9110 15.6.6", head(b"GET / HTTP/2.0", HOST), 505),
    refused("HTTP/3.0", "9110 15.6.6", head(b"GET / HTTP/3.0", HOST), 505),
    refused("no version", "9112 2.3", b"GET /\r\n", 505),
    refused("preface of HTTP/2", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    refused("HTTP/1.10", "9112 2.3", head(b"GET / HTTP/1.10", HOST)),
    refused("HTTP/01.1", "9112 2.3", head(b"GET / HTTP/01.1", HOST)),
    refused("HTTP/1,1", "9112 2.3", head(b"GET / HTTP/1,1", HOST)),
    refused("HTTP/11", "9112 2.3", head(b"GET / HTTP/11", HOST)),
    refused("HTTP/1", "9112 2.3", head(b"GET / HTTP/1", HOST)),
    refused("version in lower case", "9112 2.3", head(b"GET / http/1.1", HOST)),
    refused("version of RTSP", "9112 2.3", head(b"GET / RTSP/1.0", HOST)),
    refused("version of Icecast", "9112 2.3", head(b"SOURCE / ICE/1.0", HOST)),
    refused("garbage for a version", "9112 2.3", head(b"GET / FTP", HOST)),
    refused("garbage after the version", "9112 3", head(b"GET / HTTP/1.1x", HOST)),
    refused("space after the version", "9112 3", head(b"GET / HTTP/1.1 ", HOST)),
    refused("space before the method", "9112 3", b" " + get()),
    refused("two spaces after the method", "9112 3", head(b"GET  / HTTP/1.1", HOST)),
    refused("two spaces before the version", "9112 3", head(b"GET /  HTTP/1.1", HOST)),
    refused("tabs", "9112 3", head(b"GET\t/\tHTTP/1.1", HOST)),
    refused("no target", "9112 3", head(b"GET HTTP/1.1", HOST)),
    refused("empty target", "9112 3", head(b"GET  HTTP/1.1", HOST)),
    refused("method only", "9112 3", b"GET\r\n\r\n"),
    refused("method in lower case", "9110 9.1", head(b"get / HTTP/1.1", HOST)),
    refused("method with a comma", "9110 9.1", head(b"GET, / HTTP/1.1", HOST)),
    refused("method with NUL", "9110 9.1", head(b"GE\0T / HTTP/1.1", HOST)),
    refused("method of high bytes", "9110 9.1", head(b"G\xc9T / HTTP/1.1", HOST)),
    refused("a digit", "9110 9.1", b"1" + get()),
    refused("NUL before a request", "9112 3", b"\0" + get()),
    refused("TLS", "9112 3", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"),
    refused("request line of 8191 bytes", "9112 3", get(target=b"/" + b"a" * 8177), 414),
]

TARGETS = [
    refused("space in the target", "9112 3.2", get(target=b"/a b")),
    refused("fragment", "9112 3.2", get(target=b"/a#b")),
    refused("high byte in the target", "9112 3.2", get(target=b"/\xe9")),
    refused("DEL in the target", "9112 3.2", get(target=b"/\x7f")),
    refused("NUL in the target", "9112 3.2", get(target=b"/\0")),
    refused("vertical tab in the target", "9112 3.2", get(target=b"/\x0b")),
    refused("relative path", "9112 3.2.1", get(target=b"a")),
    refused("query alone", "9112 3.2.1", get(target=b"?a")),
    refused("absolute, other Host", "9112 3.2.2", get(target=b"http://b/")),
    refused("absolute, other port", "9112 3.2.2", get(target=b"http://a:8080/")),
    refused("absolute, empty Host", "9112 3.2.2", get(target=b"http://a/", host=b"Host:")),
    refused("absolute, no Host", "9112 3.2", head(b"GET http://a/ HTTP/1.1")),
    refused("absolute, other scheme", "9112 3.2.2", get(target=b"ftp://a/")),
    refused("absolute without a host", "9110 4.2.1", get(target=b"http:///a")),
    refused("absolute with userinfo", "9110 4.2.4", get(target=b"http://u@a/")),
    refused("absolute, one slash", "9112 3.2.2", get(target=b"http:/a")),
    refused("absolute, half an address", "3986 3.2.2",
            get(target=b"http://[::1/", host=b"Host: [::1")),
    refused("authority with GET", "9112 3.2.3", get(target=b"a:443")),
    refused("authority with CONNECT", "9112 3.2.3",
            head(b"CONNECT a:443 HTTP/1.1", b"Host: a:443")),
    refused("authority, CONNECT and a body", "9110 9.3.6",
            head(b"CONNECT a:443 HTTP/1.1", b"Host: a:443", b"Content-Length: 1") + b"a"),
    refused("asterisk with GET", "9112 3.2.4", get(target=b"*")),
    refused("more than an asterisk", "9112 3.2.4", head(b"OPTIONS */ HTTP/1.1", HOST)),
]  # fmt: skip

HOSTS = [
    refused("no Host", "9112 3.2", head(b"GET / HTTP/1.1")),
    refused("no Host, Upgrade", "9112 3.2",
            head(b"GET / HTTP/1.1", b"Connection: upgrade", b"Upgrade: h2c")),
    refused("two Hosts", "9112 3.2", get(b"Host: b")),
    refused("the same Host twice", "9112 3.2", get(b"host: a")),
    refused("a list of Hosts", "9112 3.2", get(host=b"Host: a, b")),
    refused("Host with a path", "9112 3.2", get(host=b"Host: a/b")),
    refused("Host with a scheme", "9112 3.2", get(host=b"Host: http://a")),
    refused("Host with userinfo", "9110 7.2", get(host=b"Host: u@a")),
    refused("Host with a space", "9112 3.2", get(host=b"Host: a b")),
    refused("Host with a tab", "9112 3.2", get(host=b"Host: a\tb")),
    refused("Host of high bytes", "9112 3.2", get(host=b"Host: \xe9")),
    refused("Host, port is a name", "3986 3.2.3", get(host=b"Host: a:b")),
    refused("Host, two ports", "3986 3.2.3", get(host=b"Host: a:1:2")),
    refused("Host, port only", "9110 4.2.1", get(host=b"Host: :80")),
    refused("Host, IPv6 without brackets", "3986 3.2.2", get(host=b"Host: ::1")),
    refused("Host, half an address", "3986 3.2.2", get(host=b"Host: [::1")),
    refused("Host, more than an address", "3986 3.2.2", get(host=b"Host: [::1]a")),
    refused("Host, half percent-encoded", "3986 2.1", get(host=b"Host: a%4")),
    refused("Host, backslash", "3986 3.2.2", get(host=b"Host: a\\b")),
]  # fmt: skip

FIELDS = [
    refused("space before the colon", "9112 5.1", head(b"GET / HTTP/1.1", b"Host : a")),
    refused("tab before the colon", "9112 5.1", get(b"X\t: a")),
    refused("space in a name", "9112 5.1", get(b"X Y: a")),
    refused("no colon", "9112 5", get(b"X")),
    refused("empty name", "9112 5", get(b": x")),
    refused("line folding", "9112 5.2", get(b"X: a", b" b")),
    refused("line folding, tab", "9112 5.2", get(b"X: a", b"\tb")),
    refused("line folding of nothing", "9112 5.2", get(b"X: a", b" ")),
    refused("line folding of a length", "9112 5.2", post(b"abc", b"Content-Length:", b" 3")),
    refused("line folding of a coding", "9112 5.2",
            post(b"0\r\n\r\n", b"Transfer-Encoding:", b" chunked")),
    refused("NUL in a name", "9110 5.1", get(b"X\0: a")),
    refused("high byte in a name", "9110 5.1", get(b"X\xe9: a")),
    refused("DEL in a name", "9110 5.1", get(b"X\x7f: a")),
    refused("quotes around a name", "9110 5.6.2", get(b'"X": a')),
    refused("parentheses around a name", "9110 5.6.2", get(b"(X): a")),
    refused("slash in a name", "9110 5.6.2", get(b"X/Y: a")),
    refused("NUL in a value", "9110 5.5", get(b"X: a\0b")),
    refused("vertical tab in a value", "9110 5.5", get(b"X: a\x0bb")),
    refused("escape in a value", "9110 5.5", get(b"X: \x1b[2J")),
    refused("DEL in a value", "9110 5.5", get(b"X: \x7f")),
    refused("two Content-Types", "9110 8.3", get(b"Content-Type: a/b", b"content-type: c/d")),
    refused("field of 8191 bytes", "9110 5.4", get(b"X: " + b"a" * 8188), 431),
    refused("101 fields", "9110 5.4", get(*[b"X: y"] * 100), 431),
    refused("unknown expectation", "9110 10.1.1", post(b"", b"Expect: a-miracle"), 417),
    refused("two expectations", "9110 10.1.1",
            post(b"a", b"Expect: 100-continue", b"Expect: x", b"Content-Length: 1"), 417),
    refused("empty expectation", "9110 10.1.1", post(b"", b"Expect:"), 417),
    after_one("anything after a request", "9112 9.3.2", b"abc"),
    after_one("lower case after a request", "9112 9.3.2", b"get / HTTP/1.1\r\n\r\n"),
]  # fmt: skip

REFUSED = [*LINE_ENDS, *REQUEST_LINES, *TARGETS, *HOSTS, *FIELDS]
