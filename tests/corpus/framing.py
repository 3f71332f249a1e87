"""Requests whose body has an unclear end, as in request smuggling (RFC 9112 11.2)."""

from __future__ import annotations

from corpus.entries import Entry, chunks, coding, head, length, post
from corpus.refused import after_one, refused

LAST = b"0\r\n\r\n"

LENGTHS = [
    refused("two lengths", "9112 6.3", post(b"ab", length(1), length(2))),
    refused("the same length twice", "9110 8.6", post(b"a", length(1), length(1))),
    refused("list of lengths", "9110 8.6", post(b"a", length(b"1, 1"))),
    refused("list of other lengths", "9112 6.3", post(b"ab", length(b"1, 2"))),
    refused("length and a comma", "9110 8.6", post(b"a", length(b"1,"))),
    refused("length with a plus", "9110 8.6", post(b"a", length(b"+1"))),
    refused("negative length", "9110 8.6", post(b"a", length(b"-1"))),
    refused("length in hexadecimal", "9110 8.6", post(b"a", length(b"0x1"))),
    refused("length of letters", "9110 8.6", post(b"a" * 10, length(b"a"))),
    refused("length with an underscore", "9110 8.6", post(b"a" * 10, length(b"1_0"))),
    refused("length with a fraction", "9110 8.6", post(b"a", length(b"1.0"))),
    refused("length with an exponent", "9110 8.6", post(b"a", length(b"1e0"))),
    refused("length in two words", "9110 8.6", post(b"a", length(b"1 1"))),
    refused("length in quotes", "9110 8.6", post(b"a", length(b'"1"'))),
    refused("length in other digits", "9110 8.6", post(b"a", length("\u0661".encode()))),
    refused("length and a vertical tab", "9110 8.6", post(b"a", length(b"1\x0b"))),
    refused("length and NUL", "9110 8.6", post(b"a", length(b"1\0"))),
    refused("empty length", "9110 8.6", post(b"a", length(b""))),
    refused("length over 64 bits", "9110 8.6", post(b"a", length(b"18446744073709551617"))),
    refused("length of 5000 digits", "9110 8.6", post(b"a", length(b"1" * 5000))),
    refused(
        "length over the limit", "9110 15.5.14", post(b"", length(b"9223372036854775807")), 413
    ),
    refused("space before the colon of a length", "9112 5.1", post(b"a", b"Content-Length : 1")),
]

CODINGS = [
    refused("coding and length", "9112 6.1", post(LAST, coding(b"chunked"), length(5))),
    refused("length and coding", "9112 6.1", post(LAST, length(5), coding(b"chunked"))),
    refused("length of zero and coding", "9112 6.1", post(LAST, length(0), coding(b"chunked"))),
    refused("length and identity", "9112 6.1", post(b"a", length(1), coding(b"identity"))),
    refused("length and no coding", "9112 6.1", post(b"a", length(1), coding(b""))),
    refused("coding in 1.0", "9112 6.1", head(b"POST / HTTP/1.0", coding(b"chunked")) + LAST),
    refused("coding and length in 1.0", "9112 6.1",
            head(b"POST / HTTP/1.0", coding(b"chunked"), length(5)) + LAST),
    refused("coding before chunked", "9112 6.1", post(LAST, coding(b"gzip, chunked")), 501),
    refused("coding in a field before", "9112 6.1",
            post(LAST, coding(b"gzip"), coding(b"chunked"))),
    refused("identity before chunked", "9112 7", post(LAST, coding(b"identity,chunked")), 501),
    refused("coding only", "9112 6.3", post(b"", coding(b"gzip"))),
    refused("identity", "9112 7", post(b"", coding(b"identity"))),
    refused("chunked is not the last", "9112 6.3", post(LAST, coding(b"chunked, gzip"))),
    refused("chunked and identity", "9112 6.3", post(LAST, coding(b"chunked, identity"))),
    refused("chunked twice", "9112 6.1", post(LAST, coding(b"chunked, chunked"))),
    refused("chunked in two fields", "9112 6.1",
            post(LAST, coding(b"chunked"), coding(b"chunked"))),
    refused("chunked and another field", "9112 6.1",
            post(LAST, coding(b"chunked"), coding(b"identity"))),
    refused("xchunked", "9112 7", post(LAST, coding(b"xchunked"))),
    refused("chunkedx", "9112 7", post(LAST, coding(b"chunkedx"))),
    refused("chun ked", "9112 7", post(LAST, coding(b"chun ked"))),
    refused("chunked in quotes", "9112 7", post(LAST, coding(b'"chunked"'))),
    refused("chunked with a parameter", "9112 7", post(LAST, coding(b"chunked;q=1"))),
    refused("chunked and a semicolon", "9112 7", post(LAST, coding(b"chunked;"))),
    refused("chunked and a comma", "9112 7", post(LAST, coding(b"chunked,"))),
    refused("comma and chunked", "9112 7", post(LAST, coding(b",chunked"))),
    refused("empty coding", "9112 6.3", post(LAST, coding(b""))),
    refused("vertical tab before chunked", "9110 5.5", post(LAST, coding(b"\x0bchunked"))),
    refused("form feed after chunked", "9110 5.5", post(LAST, coding(b"chunked\x0c"))),
    refused("NUL after chunked", "9110 5.5", post(LAST, coding(b"chunked\0"))),
    refused("no-break space before chunked", "9112 7", post(LAST, coding(b"\xa0chunked"))),
    refused("space before the colon of a coding", "9112 5.1",
            post(LAST, b"Transfer-Encoding : chunked")),
    after_one("a second request that smuggles", "9112 11.2",
              post(LAST, length(5), coding(b"chunked"))),
]  # fmt: skip

CHUNKS = [
    refused("no size", "9112 7.1", chunks(b"\r\na\r\n")),
    refused("size is no number", "9112 7.1", chunks(b"x\r\na\r\n")),
    refused("size with 0x", "9112 7.1", chunks(b"0x1\r\na\r\n")),
    refused("size with a plus", "9112 7.1", chunks(b"+1\r\na\r\n")),
    refused("negative size", "9112 7.1", chunks(b"-1\r\na\r\n")),
    refused("size with an underscore", "9112 7.1", chunks(b"1_0\r\n0123456789abcdef\r\n")),
    refused("space before the size", "9112 7.1", chunks(b" 1\r\na\r\n")),
    refused("space after the size", "9112 7.1", chunks(b"1 \r\na\r\n")),
    refused("tab after the size", "9112 7.1", chunks(b"1\t\r\na\r\n")),
    refused("NUL after the size", "9112 7.1", chunks(b"1\0\r\na\r\n")),
    refused("comma after the size", "9112 7.1", chunks(b"1,a\r\na\r\n")),
    refused("size over 64 bits", "9112 7.1", chunks(b"10000000000000001\r\na\r\n")),
    refused("size over the limit", "9110 15.5.14", chunks(b"ffffffffffffffff\r\n"), 413),
    refused("bare LF after the size", "9112 7.1", chunks(b"1\na\r\n")),
    refused("bare CR after the size", "9112 7.1", chunks(b"1\ra\r\n")),
    refused("two CR after the size", "9112 7.1", chunks(b"1\r\r\na\r\n")),
    refused("bare LF after the data", "9112 7.1", chunks(b"1\r\na\n0\r\n\r\n")),
    refused("bare CR after the data", "9112 7.1", chunks(b"1\r\na\r0\r\n\r\n")),
    refused("nothing after the data", "9112 7.1", chunks(b"1\r\na0\r\n\r\n")),
    refused("data longer than the size", "9112 7.1", chunks(b"1\r\nab\r\n0\r\n\r\n")),
    refused("data shorter than the size", "9112 7.1", chunks(b"4\r\na\r\n0\r\n\r\n")),
    refused("empty line between chunks", "9112 7.1", chunks(b"1\r\na\r\n\r\n0\r\n\r\n")),
    refused("bare LF after the last chunk", "9112 7.1", chunks(b"0\n\r\n")),
    refused("bare LF ends the body", "9112 7.1", chunks(b"0\r\n\n")),
]

EXTENSIONS = [
    refused("extension without a name", "9112 7.1.1", chunks(b"1;\r\na\r\n")),
    refused("extension, two semicolons", "9112 7.1.1", chunks(b"1;a;;b\r\na\r\n")),
    refused("extension, value without a name", "9112 7.1.1", chunks(b"1;=a\r\na\r\n")),
    refused("extension, no value", "9112 7.1.1", chunks(b"1;a=\r\na\r\n")),
    refused("extension, space before", "9112 7.1.1", chunks(b"1 ;a\r\na\r\n")),
    refused("extension, space after", "9112 7.1.1", chunks(b"1; a\r\na\r\n")),
    refused("extension, two words", "9112 7.1.1", chunks(b"1;a b\r\na\r\n")),
    refused("extension, bare LF", "9112 7.1.1", chunks(b"1;a\nb\r\na\r\n")),
    refused("extension, bare CR", "9112 7.1.1", chunks(b"1;a\rb\r\na\r\n")),
    refused("extension, NUL", "9112 7.1.1", chunks(b"1;a\0\r\na\r\n")),
    refused("extension, high byte", "9112 7.1.1", chunks(b"1;\xe9\r\na\r\n")),
    refused("extension, open quote", "9112 7.1.1", chunks(b'1;a="b\r\na\r\n')),
    refused("extension, more than the quoted", "9112 7.1.1", chunks(b'1;a="b"c\r\na\r\n')),
    refused("extension, control character quoted", "9112 7.1.1", chunks(b'1;a="\x01"\r\na\r\n')),
    refused("extension of 4097 bytes", "9112 7.1.1",
            chunks(b"1;" + b"a" * 4112 + b"\r\na\r\n0\r\n\r\n"), 413),
    refused("extensions of 5000 bytes together", "9112 7.1.1",
            chunks((b"1;" + b"a" * 1249 + b"\r\na\r\n") * 4 + b"0\r\n\r\n"), 413),
]  # fmt: skip

TRAILERS = [
    refused("trailer that frames", "9110 6.5.1", chunks(b"0\r\nContent-Length: 1\r\n\r\n")),
    refused("trailer with a coding", "9110 6.5.1", chunks(b"0\r\nTransfer-Encoding: x\r\n\r\n")),
    refused("trailer that routes", "9110 6.5.1", chunks(b"0\r\nHost: b\r\n\r\n")),
    refused("trailer that authenticates", "9110 6.5.1", chunks(b"0\r\nAuthorization: b\r\n\r\n")),
    refused("trailer with a cookie", "9110 6.5.1", chunks(b"0\r\nX: y\r\nCookie: b\r\n\r\n")),
    refused("trailer about the content", "9110 6.5.1", chunks(b"0\r\nContent-Type: a/b\r\n\r\n")),
    refused(
        "trailer about the connection", "9110 6.5.1", chunks(b"0\r\nConnection: close\r\n\r\n")
    ),
    refused("trailer, space before the colon", "9112 5.1", chunks(b"0\r\nX : y\r\n\r\n")),
    refused("trailer, line folding", "9112 5.2", chunks(b"0\r\nX: y\r\n z\r\n\r\n")),
    refused("trailer, NUL", "9110 5.5", chunks(b"0\r\nX: \0\r\n\r\n")),
    refused("trailer, bare LF", "9112 2.2", chunks(b"0\r\nX: y\nY: z\r\n\r\n")),
    refused("trailer, no colon", "9112 5", chunks(b"0\r\nX\r\n\r\n")),
    refused(
        "trailer of 8191 bytes", "9110 5.4", chunks(b"0\r\nX: " + b"a" * 8188 + b"\r\n\r\n"), 431
    ),
    refused("100 trailers", "9110 5.4", chunks(b"0\r\n" + b"X: y\r\n" * 99 + b"\r\n"), 431),
]

FRAMING: list[Entry] = [*LENGTHS, *CODINGS, *CHUNKS, *EXTENSIONS, *TRAILERS]
