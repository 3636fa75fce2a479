//! The head of an HTTP/1 answer: status line and headers, judged as Go's client judges them.
//!
//! Headers are looked at one after the other; only what bears on redirects and on the length of the body is kept, so
//! that a server with endless headers costs time, which the caller bounds, and no memory.

use std::io;

use tokio::io::AsyncRead;

use super::quote::quote;
use super::reader::{HEAD_LIMIT, Line, ReadError, Reader};
use super::request::{canonical, has_token, is_token_byte};

/// So much of a line that is wrong from its first byte is shown.
const SHOWN: usize = 80;

/// What the head said.
#[derive(Debug)]
pub(super) struct Head {
    pub status: u16,
    /// The first `Location` header; may be empty.
    pub location: String,
    pub body: BodyKind,
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyKind {
    /// So many bytes.
    Length(u64),
    /// Until the last chunk.
    Chunked,
    /// Until the connection ends.
    ToEnd,
}

/// Why there is no head.
#[derive(Debug)]
pub(super) enum HeadError {
    /// The connection ended before the first byte.
    Nothing,
    /// The connection failed before the first byte.
    Failed(io::Error),
    /// The connection failed later.
    Broken(io::Error),
    /// It is not HTTP, or not the HTTP that can be understood.
    Malformed(String),
}

impl HeadError {
    fn of(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Broken(error),
            ReadError::HeadTooLong => Self::Malformed(format!(
                "net/http: server response headers exceeded {HEAD_LIMIT} bytes; aborted"
            )),
        }
    }

    fn cut_off() -> Self {
        Self::Malformed("unexpected EOF".into())
    }
}

/// Reads the head of the answer; 1xx answers before it are passed over.
pub(super) async fn read<S: AsyncRead + Unpin>(reader: &mut Reader<S>) -> Result<Head, HeadError> {
    match reader.peek().await {
        Ok([]) => return Err(HeadError::Nothing),
        Ok(_) => {}
        Err(ReadError::Io(error)) => return Err(HeadError::Failed(error)),
        Err(error) => return Err(HeadError::of(error)),
    }
    let mut line = Vec::new();
    loop {
        if reader.line(&mut line).await.map_err(HeadError::of)? == Line::End {
            return Err(HeadError::cut_off());
        }
        let (status, version) = status_line(&line).map_err(HeadError::Malformed)?;
        let mut facts = Facts::default();
        read_headers(reader, &mut line, |name, value| facts.note(name, value)).await?;
        let head = facts.conclude(status, version).map_err(HeadError::Malformed)?;
        if !(100..200).contains(&status) || status == 101 {
            reader.head_ends();
            return Ok(head);
        }
    }
}

/// `HTTP/1.1 200 OK` as status and version.
fn status_line(line: &[u8]) -> Result<(u16, (u8, u8)), String> {
    let Some(space) = line.iter().position(|b| *b == b' ') else {
        return Err(format!("malformed HTTP response {}", quote(line)));
    };
    let (protocol, rest) = (&line[..space], trim(&line[space..]));
    let code = rest.split(|b| *b == b' ').next().unwrap_or_default();
    let status = match code {
        [b'+', a, b] => digits(&[*a, *b]),
        [_, _, _] => digits(code),
        _ => None,
    };
    let Some(status) = status else { return Err(format!("malformed HTTP status code {}", quote(code))) };
    match protocol {
        [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] => {
            Ok((status, (major - b'0', minor - b'0')))
        }
        _ => Err(format!("malformed HTTP version {}", quote(protocol))),
    }
}

fn digits(text: &[u8]) -> Option<u16> {
    text.iter().try_fold(0_u16, |number, b| match b {
        b'0'..=b'9' => Some(number * 10 + u16::from(b - b'0')),
        _ => None,
    })
}

/// Reads headers up to the empty line after them; gives each to `note`, which says what is too much for it.
pub(super) async fn read_headers<S: AsyncRead + Unpin>(
    reader: &mut Reader<S>,
    line: &mut Vec<u8>,
    mut note: impl FnMut(&str, Header<'_>) -> Result<(), String>,
) -> Result<(), HeadError> {
    // The header before the line at hand, which may continue it; empty: none.
    let mut pending = Vec::new();
    let mut pending_cut = false;
    loop {
        let cut = match reader.line(line).await.map_err(HeadError::of)? {
            Line::End => return Err(HeadError::cut_off()),
            Line::Whole => false,
            Line::Cut => true,
        };
        if let [b' ' | b'\t', ..] = line.as_slice() {
            if pending.is_empty() {
                let shown = &line[..line.len().min(SHOWN)];
                return Err(HeadError::Malformed(format!(
                    "malformed MIME header initial line: {}",
                    quote(shown)
                )));
            }
            // Continued lines are one line with a space between.
            pending_cut |= cut || pending.len() + line.len() > HEADER_KEPT;
            if !pending_cut {
                pending.push(b' ');
                pending.extend_from_slice(trim(line));
            }
            continue;
        }
        if !pending.is_empty() {
            parse_header(&pending, pending_cut, &mut note).map_err(HeadError::Malformed)?;
        }
        if line.is_empty() {
            return Ok(());
        }
        if !line.contains(&b':') && !cut {
            return Err(HeadError::Malformed(format!(
                "malformed MIME header: missing colon: {}",
                quote(line)
            )));
        }
        pending.clear();
        pending.extend_from_slice(trim(line));
        pending_cut = cut;
    }
}

/// A header with its continuations is kept up to this.
const HEADER_KEPT: usize = 32 * 1024;

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The value of a header.
#[derive(Clone, Copy)]
pub(super) struct Header<'a> {
    text: &'a [u8],
    /// It was longer than what is kept.
    cut: bool,
}

fn parse_header(
    line: &[u8],
    cut: bool,
    note: &mut impl FnMut(&str, Header<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let malformed = || format!("malformed MIME header line: {}", quote(line));
    let (name, value) = match line.iter().position(|b| *b == b':') {
        Some(colon) => (&line[..colon], trim(&line[colon + 1..])),
        // A name without end; what became of it was not kept.
        None => (line, &b""[..]),
    };
    // A space is let pass, but makes it another header.
    if name.is_empty() || !name.iter().all(|b| is_token_byte(*b) || *b == b' ') {
        return Err(malformed());
    }
    if value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
        return Err(malformed());
    }
    let name = std::str::from_utf8(name).map_err(|_| malformed())?;
    note(name, Header { text: value, cut })
}

/// What matters of the headers.
#[derive(Default)]
struct Facts {
    lengths: Vec<String>,
    encodings: Vec<String>,
    location: Option<String>,
    trailers: Vec<String>,
    connection: Vec<String>,
    upgrade: bool,
}

/// More headers of one kind than this are too many.
const EQUAL_HEADERS: usize = 64;

impl Facts {
    fn note(&mut self, name: &str, value: Header<'_>) -> Result<(), String> {
        let list = match name.len() {
            14 if name.eq_ignore_ascii_case("Content-Length") => &mut self.lengths,
            17 if name.eq_ignore_ascii_case("Transfer-Encoding") => &mut self.encodings,
            7 if name.eq_ignore_ascii_case("Trailer") => &mut self.trailers,
            10 if name.eq_ignore_ascii_case("Connection") => &mut self.connection,
            7 if name.eq_ignore_ascii_case("Upgrade") => {
                self.upgrade |= !value.text.is_empty();
                return Ok(());
            }
            8 if name.eq_ignore_ascii_case("Location") && self.location.is_none() => {
                if value.cut {
                    return Err(format!("header line too long: {}", quote(value.text)));
                }
                self.location = Some(String::from_utf8_lossy(value.text).into_owned());
                return Ok(());
            }
            _ => return Ok(()),
        };
        if value.cut || list.len() >= EQUAL_HEADERS {
            return Err(format!("too much of the header {name}"));
        }
        list.push(String::from_utf8_lossy(value.text).into_owned());
        Ok(())
    }

    fn conclude(self, status: u16, version: (u8, u8)) -> Result<Head, String> {
        let chunked = version >= (1, 1) && self.chunked()?;
        let length = self.length()?;
        if chunked {
            self.check_trailers()?;
        }
        let switched =
            status == 101 && self.upgrade && self.connection.iter().any(|value| has_token(value, "upgrade"));
        let body = match (status, length) {
            (101, _) if switched => BodyKind::ToEnd,
            (100..200 | 204 | 304, _) => BodyKind::Length(0),
            _ if chunked => BodyKind::Chunked,
            (_, Some(length)) => BodyKind::Length(length),
            (_, None) => BodyKind::ToEnd,
        };
        Ok(Head { status, location: self.location.unwrap_or_default(), body })
    }

    fn chunked(&self) -> Result<bool, String> {
        match self.encodings.as_slice() {
            [] => Ok(false),
            [one] if one.eq_ignore_ascii_case("chunked") => Ok(true),
            [one] => Err(format!("unsupported transfer encoding: {}", quote(one.as_bytes()))),
            many => Err(format!("too many transfer encodings: {}", quote_all(many))),
        }
    }

    fn length(&self) -> Result<Option<u64>, String> {
        let mut lengths = self.lengths.iter().map(|length| length.trim_matches([' ', '\t']));
        let Some(first) = lengths.next() else { return Ok(None) };
        if lengths.any(|other| other != first) {
            return Err(format!(
                "http: message cannot contain multiple Content-Length headers; got {}",
                quote_all(&self.lengths)
            ));
        }
        if first.is_empty() {
            return Err("invalid empty Content-Length \"\"".into());
        }
        let number = first.bytes().all(|b| b.is_ascii_digit()).then(|| first.parse::<i64>().ok());
        match number.flatten().and_then(|number| u64::try_from(number).ok()) {
            Some(length) => Ok(Some(length)),
            None => Err(format!("bad Content-Length {}", quote(first.as_bytes()))),
        }
    }

    fn check_trailers(&self) -> Result<(), String> {
        for name in self.trailers.iter().flat_map(|list| list.split(',')) {
            let name = canonical(name.trim_matches([' ', '\t']));
            if ["Transfer-Encoding", "Trailer", "Content-Length"].contains(&name.as_str()) {
                return Err(format!("bad trailer key {}", quote(name.as_bytes())));
            }
        }
        Ok(())
    }
}

fn quote_all(texts: &[String]) -> String {
    let quoted: Vec<_> = texts.iter().map(|text| quote(text.as_bytes())).collect();
    format!("[{}]", quoted.join(" "))
}
