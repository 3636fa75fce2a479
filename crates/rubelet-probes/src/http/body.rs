//! The body of an HTTP/1 answer, read no further than upstream reads it, and kept only when somebody wants to see it.

use std::io;

use tokio::io::AsyncRead;

use super::head::{BodyKind, HeadError, read_headers};
use super::reader::{ReadError, Reader};

/// A chunk's line, and everything after the last chunk, may be so long.
const LINE_LIMIT: usize = 4096;
/// So much may stand around chunks beyond what their data accounts for.
const EXCESS_LIMIT: u64 = 16 * 1024;

/// Why a body could not be read.
#[derive(Debug)]
pub(super) enum BodyError {
    /// The connection failed.
    Io(io::Error),
    /// What came is no body.
    Malformed(String),
}

impl BodyError {
    fn of(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            ReadError::HeadTooLong => Self::new("body too long"),
        }
    }

    fn new(text: &str) -> Self {
        Self::Malformed(text.into())
    }

    fn cut_off() -> Self {
        Self::new("unexpected EOF")
    }
}

/// Reads a body up to `limit` bytes, whatever follows them; adds it to `kept`, if that is wanted.
pub(super) async fn read<S: AsyncRead + Unpin>(
    reader: &mut Reader<S>,
    kind: BodyKind,
    limit: usize,
    kept: Option<&mut Vec<u8>>,
) -> Result<(), BodyError> {
    let mut sink = Sink { left: limit, kept };
    match kind {
        BodyKind::Length(length) => pass(reader, length, &mut sink).await,
        BodyKind::Chunked => chunks(reader, &mut sink).await,
        BodyKind::ToEnd => {
            while sink.left > 0 {
                let bytes = reader.peek().await.map_err(BodyError::of)?;
                if bytes.is_empty() {
                    break;
                }
                let taken = sink.put(bytes);
                reader.take(taken);
            }
            Ok(())
        }
    }
}

struct Sink<'a> {
    left: usize,
    kept: Option<&'a mut Vec<u8>>,
}

impl Sink<'_> {
    /// Takes what there is room for; says how much that was.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.left);
        self.left -= count;
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&bytes[..count]);
        }
        count
    }
}

/// Passes `length` bytes on, or fewer when there is no more room for them.
async fn pass<S: AsyncRead + Unpin>(
    reader: &mut Reader<S>,
    mut length: u64,
    sink: &mut Sink<'_>,
) -> Result<(), BodyError> {
    while length > 0 && sink.left > 0 {
        let bytes = reader.peek().await.map_err(BodyError::of)?;
        if bytes.is_empty() {
            return Err(BodyError::cut_off());
        }
        let most = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        let taken = sink.put(&bytes[..most]);
        reader.take(taken);
        length -= taken as u64;
    }
    Ok(())
}

async fn chunks<S: AsyncRead + Unpin>(reader: &mut Reader<S>, sink: &mut Sink<'_>) -> Result<(), BodyError> {
    let mut line = Vec::new();
    let mut excess = 0_u64;
    while sink.left > 0 {
        chunk_line(reader, &mut line).await?;
        let around = line.len() as u64 + 2;
        let size = chunk_size(&line).map_err(BodyError::new)?;
        excess = (excess + around).saturating_sub(size.saturating_mul(2).saturating_add(16));
        if excess > EXCESS_LIMIT {
            return Err(BodyError::new("chunked encoding contains too much non-data"));
        }
        if size == 0 {
            return trailers(reader, &mut line).await;
        }
        pass(reader, size, sink).await?;
        if sink.left == 0 {
            break;
        }
        for expected in *b"\r\n" {
            match reader.byte().await.map_err(BodyError::of)? {
                Some(byte) if byte == expected => {}
                Some(_) => return Err(BodyError::new("malformed chunked encoding")),
                None => return Err(BodyError::cut_off()),
            }
        }
    }
    Ok(())
}

/// A line that ends in CR LF, which is not part of what it leaves in `line`.
async fn chunk_line<S: AsyncRead + Unpin>(
    reader: &mut Reader<S>,
    line: &mut Vec<u8>,
) -> Result<(), BodyError> {
    line.clear();
    loop {
        match reader.byte().await.map_err(BodyError::of)? {
            Some(b'\n') => break,
            Some(_) if line.len() + 1 >= LINE_LIMIT => return Err(BodyError::new("header line too long")),
            Some(byte) => line.push(byte),
            None => return Err(BodyError::cut_off()),
        }
    }
    match line.iter().position(|b| *b == b'\r') {
        None => Err(BodyError::new("chunked line ends with bare LF")),
        Some(at) if at + 1 < line.len() => Err(BodyError::new("invalid CR in chunked line")),
        Some(at) => {
            line.truncate(at);
            Ok(())
        }
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let mut number = line;
    while let [rest @ .., b' ' | b'\t'] = number {
        number = rest;
    }
    number = number.split(|b| *b == b';').next().unwrap_or_default();
    if number.is_empty() {
        return Err("empty hex number for chunk length");
    }
    let mut size = 0_u64;
    for (at, byte) in number.iter().enumerate() {
        let Some(digit) = char::from(*byte).to_digit(16) else { return Err("invalid byte in chunk length") };
        if at == 16 {
            return Err("http chunk length too large");
        }
        size = size << 4 | u64::from(digit);
    }
    Ok(size)
}

/// What follows the last chunk: mostly an empty line.
async fn trailers<S: AsyncRead + Unpin>(reader: &mut Reader<S>, line: &mut Vec<u8>) -> Result<(), BodyError> {
    let mut bytes = Vec::new();
    while !(bytes == b"\r\n" || bytes.ends_with(b"\r\n\r\n")) {
        match reader.byte().await.map_err(BodyError::of)? {
            Some(byte) if bytes.len() < LINE_LIMIT => bytes.push(byte),
            None if bytes.len() < 2 => return Err(BodyError::new("http: unexpected EOF reading trailer")),
            _ => return Err(BodyError::new("http: suspiciously long trailer after chunked body")),
        }
    }
    match read_headers(&mut Reader::new(bytes.as_slice()), line, |_, _| Ok(())).await {
        Ok(()) => Ok(()),
        Err(HeadError::Malformed(text)) => Err(BodyError::Malformed(text)),
        Err(_) => Err(BodyError::cut_off()),
    }
}
