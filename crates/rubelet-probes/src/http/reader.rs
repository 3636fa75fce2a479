//! Reads what a server sends, line by line or as bytes, in a buffer that does not grow with what is sent.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Size of the buffer. Most answers fit; longer ones take more reads, not more memory.
const BUFFER: usize = 2048;
/// So much of one line is kept. The rest is read and forgotten.
const LINE_KEPT: usize = 16 * 1024;
/// So long may everything before the body be, 1xx answers included. Upstream's figure.
pub(super) const HEAD_LIMIT: usize = 10 << 20;

/// A buffered reader.
pub(super) struct Reader<S> {
    stream: S,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// How much may still be read before the body begins.
    budget: usize,
}

/// Why no more can be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The connection failed.
    Io(io::Error),
    /// The head of the answer does not end.
    HeadTooLong,
}

/// A line that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// All of it.
    Whole,
    /// Its beginning; the rest was too long to be kept.
    Cut,
    /// There is none: the stream has ended.
    End,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: vec![0; BUFFER].into(), start: 0, end: 0, budget: HEAD_LIMIT }
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// From now on, what is read is body, which the caller bounds.
    pub fn head_ends(&mut self) {
        self.budget = usize::MAX;
    }

    /// What has been read and not yet taken; reads when there is nothing. Empty at the end of the stream.
    pub async fn peek(&mut self) -> Result<&[u8], ReadError> {
        if self.start == self.end {
            let room = self.budget.min(self.buffer.len());
            if room == 0 {
                return Err(ReadError::HeadTooLong);
            }
            let read = match self.stream.read(&mut self.buffer[..room]).await {
                Ok(read) => read,
                // TLS peers that hang up without saying so.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                Err(error) => return Err(ReadError::Io(error)),
            };
            self.budget -= read.min(self.budget);
            (self.start, self.end) = (0, read);
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Takes so many of the bytes that were peeked at.
    pub fn take(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    /// One byte.
    pub async fn byte(&mut self) -> Result<Option<u8>, ReadError> {
        let byte = self.peek().await?.first().copied();
        self.take(1);
        Ok(byte)
    }

    /// The next line into `line`, without its end, which is LF or CR LF. Bytes before the end of the stream are a line.
    pub async fn line(&mut self, line: &mut Vec<u8>) -> Result<Line, ReadError> {
        line.clear();
        let mut cut = false;
        let mut any = false;
        loop {
            let bytes = self.peek().await?;
            if bytes.is_empty() {
                break;
            }
            any = true;
            let end = bytes.iter().position(|b| *b == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let room = LINE_KEPT - line.len();
            cut |= part.len() > room;
            line.extend_from_slice(&part[..part.len().min(room)]);
            let taken = end.map_or(bytes.len(), |end| end + 1);
            self.take(taken);
            if end.is_some() {
                break;
            }
        }
        if !cut && line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(match (any, cut) {
            (false, _) => Line::End,
            (true, true) => Line::Cut,
            (true, false) => Line::Whole,
        })
    }
}
