"""Valid heads and bodies, which a server must accept."""

from __future__ import annotations

from corpus.entries import Entry, Found, chunks, coding, get, head, length, post

NEXT = get(target=b"/next")
FOUND_NEXT = Found(target=b"/next")
UPGRADE = (b"Connection: upgrade", b"Upgrade: h2c")
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")


def served(name: str, section: str, raw: bytes, *found: Found) -> Entry:
    return Entry(name, section, raw, found or (Found(),))


def one(name: str, section: str, raw: bytes, body: bytes = b"") -> Entry:
    """Return an entry with a POST and a request behind it that must be found, too."""
    return served(name, section, raw + NEXT, Found("POST", body=body), FOUND_NEXT)


def persistence(name: str, version: bytes, *fields: bytes, goes_on: bool) -> Entry:
    raw = head(b"GET / HTTP/" + version, b"Host: a", *fields) + NEXT
    first = Found(version=version.decode())
    return Entry(name, "9112 9.3", raw, (first, FOUND_NEXT) if goes_on else (first,))


MESSAGES = [
    served("simple", "9112 2.1", get()),
    served("empty line before", "9112 2.2", b"\r\n" + get()),
    served("empty lines before", "9112 2.2", b"\r\n\r\n\r\n" + get()),
    served("empty line between", "9112 2.2", get() + b"\r\n" + NEXT, Found(), FOUND_NEXT),
    served("1.0", "9112 2.3", head(b"GET / HTTP/1.0", b"Host: a"), Found(version="1.0")),
    served("1.0 without Host", "9112 3.2", head(b"GET / HTTP/1.0"), Found(version="1.0")),
    served("pipelined", "9112 9.3.2", get() + post(b"ab", length(2)) + NEXT,
           Found(), Found("POST", body=b"ab"), FOUND_NEXT),
    served("method of another server", "9110 9.1", head(b"M-SEARCH / HTTP/1.1", b"Host: a"),
           Found("M-SEARCH")),
    served("method nobody registered", "9110 9.1", head(b"FOO / HTTP/1.1", b"Host: a"),
           Found("FOO")),
    served("HEAD", "9110 9.3.2", head(b"HEAD / HTTP/1.1", b"Host: a"), Found("HEAD")),
    served("PUT", "9110 9.3.4", head(b"PUT / HTTP/1.1", b"Host: a", length(1)) + b"a",
           Found("PUT", body=b"a")),
]  # fmt: skip

TARGETS = [
    served("query", "9112 3.2.1", get(target=b"/a?b=c?d"), Found(target=b"/a?b=c?d")),
    served("empty query", "9112 3.2.1", get(target=b"/?"), Found(target=b"/?")),
    served("two slashes", "9112 3.2.1", get(target=b"//a/b"), Found(target=b"//a/b")),
    served("percent-encoded", "3986 2.1", get(target=b"/%41%0d%0a"), Found(target=b"/%41%0d%0a")),
    served("colon and at", "3986 3.3", get(target=b"/a:b@c"), Found(target=b"/a:b@c")),
    served("absolute", "9112 3.2.2", get(target=b"http://a/x?y"), Found(target=b"http://a/x?y")),
    served("absolute, no path", "9112 3.2.2", get(target=b"http://a?y"), Found(target=b"http://a?y")),
    served("absolute, any case", "9110 4.2.3", get(target=b"HTTP://A/"), Found(target=b"HTTP://A/")),
    served("absolute, https and port", "9112 3.2.2",
           get(target=b"https://a:1/", host=b"Host: a:1"), Found(target=b"https://a:1/")),
    served("absolute, 1.0 without Host", "9112 3.2.2", head(b"GET http://b/ HTTP/1.0"),
           Found(target=b"http://b/", version="1.0")),
    served("asterisk", "9112 3.2.4", head(b"OPTIONS * HTTP/1.1", b"Host: a"),
           Found("OPTIONS", b"*")),
]  # fmt: skip

HOSTS = [
    served("Host, empty", "9110 7.2", get(host=b"Host:")),
    served("Host, name and port", "9110 7.2", get(host=b"Host: example.org:8080")),
    served("Host, empty port", "3986 3.2.3", get(host=b"Host: a:")),
    served("Host, IPv4", "3986 3.2.2", get(host=b"Host: 127.0.0.1:80")),
    served("Host, IPv6", "3986 3.2.2", get(host=b"Host: [::1]")),
    served("Host, IPv6 and port", "3986 3.2.2", get(host=b"Host: [::ffff:1.2.3.4]:80")),
    served("Host, address of the future", "3986 3.2.2", get(host=b"Host: [v1.a:b]")),
    served("Host, percent-encoded", "3986 3.2.2", get(host=b"Host: %C3%A9.b")),
]

FIELDS = [
    served("no space after the colon", "9112 5", get(host=b"Host:a")),
    served("white space around a value", "9112 5", get(host=b"Host: \t a \t")),
    served("white space within a value", "9110 5.5", get(b"X: a \t b")),
    served("empty value", "9112 5", get(b"X:", b"Y: ")),
    served("high bytes in a value", "9110 5.5", get(b"X: \xe9\xff")),
    served("colons in a value", "9112 5", get(b"X: :a:b")),
    served("every character of a name", "9110 5.6.2", get(b"!#$%&'*+.^_`|~09AZaz: x")),
    served("the same field twice", "9110 5.3", get(b"X: a", b"x: b")),
    served("names in any case", "9110 5.1", get(b"CONTENT-length: 0", host=b"hOsT: a")),
    served("Trailer and TE are only read", "9110 6.6.2", get(b"Trailer: X", b"TE: trailers")),
    served("100 fields", "9110 5.4", get(*[b"X: y"] * 99)),
    served("underscore makes another name", "9110 5.1",
           get(b"Content_Length: 9", b"Transfer_Encoding: x") + NEXT, Found(), FOUND_NEXT),
]  # fmt: skip

BODIES = [
    one("length", "9112 6.2", post(b"abc", length(3)), b"abc"),
    one("length of zero", "9112 6.2", post(b"", length(0))),
    one("length with zeros before", "9110 8.6", post(b"abc", length(b"003")), b"abc"),
    one("length in white space", "9112 5", post(b"abc", length(b"\t 3 \t")), b"abc"),
    one("no length", "9112 6.3", post(b"")),
    one("body is a request", "9112 6.2", post(NEXT, length(len(NEXT))), NEXT),
    one("body of NUL and line ends", "9112 6.2", post(b"\0\r\n\r\n", length(5)), b"\0\r\n\r\n"),
    one("chunks", "9112 7.1", chunks(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"), b"abc"),
    one("no chunk", "9112 7.1", chunks(b"0\r\n\r\n")),
    one("last chunk of many zeros", "9112 7.1", chunks(b"0000\r\n\r\n")),
    one("size in either case", "9112 7.1",
        chunks(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"), b"0123456789" * 2),
    one("size of 16 digits", "9112 7.1", chunks(b"000000000000000a\r\n0123456789\r\n0\r\n\r\n"),
        b"0123456789"),
    one("line ends in a chunk", "9112 7.1", chunks(b"5\r\n\r\n0\r\n\r\n0\r\n\r\n"), b"\r\n0\r\n"),
    one("coding in any case", "9112 7", post(b"0\r\n\r\n", coding(b"cHunKed"))),
    one("coding in white space", "9112 5", post(b"0\r\n\r\n", coding(b"\tchunked \t"))),
    one("extension", "9112 7.1.1", chunks(b"1;a\r\na\r\n0\r\n\r\n"), b"a"),
    one("extension with a value", "9112 7.1.1", chunks(b"1;a=b;c\r\na\r\n0;d=1\r\n\r\n"), b"a"),
    one("extension, quoted", "9112 7.1.1", chunks(b'1;a="\t;\\"\\\\ b"\r\na\r\n0\r\n\r\n'), b"a"),
    one("trailers", "9112 7.1.2", chunks(b"1\r\na\r\n0\r\nX-Sum: 1\r\nDigest: 2\r\n\r\n"), b"a"),
    served("body of a GET", "9110 9.3.1", get(length(1)) + b"a" + NEXT,
           Found(body=b"a"), FOUND_NEXT),
]  # fmt: skip

CONNECTIONS = [
    persistence("1.1 goes on", b"1.1", goes_on=True),
    persistence("1.1, close", b"1.1", b"Connection: close", goes_on=False),
    persistence("1.1, close among others", b"1.1", b"Connection: x ,\tCLOSE", goes_on=False),
    persistence("1.1, close in a second field", b"1.1", b"Connection: keep-alive",
                b"Connection: close", goes_on=False),
    persistence("1.1, close in a first field", b"1.1", b"Connection: close",
                b"Connection: keep-alive", goes_on=False),
    persistence("1.1, almost close", b"1.1", b"Connection: closed, xclose, close;x", goes_on=True),
    persistence("1.1, close for a proxy", b"1.1", b"Proxy-Connection: close", goes_on=True),
    persistence("1.0 ends", b"1.0", goes_on=False),
    persistence("1.0, keep-alive", b"1.0", b"Connection: Keep-Alive", goes_on=True),
    persistence("1.0, keep-alive and close", b"1.0", b"Connection: keep-alive, close",
                goes_on=False),
    persistence("1.0, keep-alive for a proxy", b"1.0", b"Proxy-Connection: keep-alive",
                goes_on=False),
    served("bytes after the last request", "9112 9.6", get(b"Connection: close") + b"\0 \n\r"),
    served("bytes after a body and close", "9112 9.6",
           post(b"a", length(1), b"Connection: close") + b"bc", Found("POST", body=b"a")),
    served("Upgrade", "9110 7.8", get(*UPGRADE) + NEXT, Found(), FOUND_NEXT),
    served("Upgrade to h2c", "9113 3.1", get(*H2C) + NEXT, Found(), FOUND_NEXT),
    one("Upgrade and a body", "9110 7.8", post(b"abc", length(3), *UPGRADE), b"abc"),
    one("Upgrade and chunks", "9110 7.8",
        post(b"1\r\na\r\n0\r\nX: y\r\n\r\n", coding(b"chunked"), *UPGRADE), b"a"),
    one("Upgrade, body is a request", "9110 7.8", post(NEXT, length(len(NEXT)), *UPGRADE), NEXT),
    one("Expect", "9110 10.1.1", post(b"abc", b"Expect: 100-Continue", length(3)), b"abc"),
    one("Expect without a body", "9110 10.1.1", post(b"", b"Expect: 100-continue")),
    served("Expect in 1.0", "9110 10.1.1",
           head(b"POST / HTTP/1.0", b"Expect: x", length(1)) + b"a",
           Found("POST", body=b"a", version="1.0")),
]  # fmt: skip

SERVED = [*MESSAGES, *TARGETS, *HOSTS, *FIELDS, *BODIES, *CONNECTIONS]
