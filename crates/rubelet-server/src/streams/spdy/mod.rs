//! As much of SPDY/3.1 as a client of the runtime's streaming server needs (upstream `moby/spdystream` at both ends).
//!
//! Pure. That server has no flow control of its own (no windows): back-pressure is TCP's. Its answers carry no headers
//! that mean anything, so that nothing has to be decompressed; and what is sent to it is a zlib stream of stored
//! blocks, which any inflater reads, without a dictionary and without a compressor's quarter megabyte for each session.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FIN: u8 = 1;

/// The most bytes of a data frame.
pub(crate) const MOST: usize = (1 << 24) - 1;

/// Why a stream is refused (`REFUSED_STREAM`).
pub(crate) const REFUSED: u32 = 3;

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The peer opens a stream.
    Open { stream: u32 },
    /// The peer took a stream; with `fin` it will send nothing on it.
    Reply { stream: u32, fin: bool },
    /// A part of what comes on a stream; with `fin` the last.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// A stream is over.
    Reset { stream: u32 },
    /// To be sent back when its number is the peer's.
    Ping(u32),
    /// Nothing more will come.
    GoAway,
}

/// How a peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("SPDY frame of another version")]
    Version,
    #[error("SPDY frame of a wrong length")]
    Length,
    #[error("SPDY frame of stream 0")]
    Stream,
}

/// Reads frames. Keeps no more than the head of one; data are given as they come.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The rest of a control frame that says nothing of interest.
    skip: usize,
    data: Option<Data>,
}

#[derive(Debug)]
struct Data {
    stream: u32,
    remaining: usize,
    fin: bool,
}

impl Decoder {
    /// Takes the next event off what was read; `None` when more has to be read.
    ///
    /// # Errors
    /// [`FrameError`]; the connection is to be closed then.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Event>, FrameError> {
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min(input.len());
                input.advance(skipped);
                self.skip -= skipped;
                if self.skip > 0 {
                    return Ok(None);
                }
            }
            if let Some(data) = &mut self.data {
                if input.is_empty() && data.remaining > 0 {
                    return Ok(None);
                }
                let bytes = input.split_to(data.remaining.min(input.len())).freeze();
                data.remaining -= bytes.len();
                let (stream, ended) = (data.stream, data.remaining == 0);
                let fin = ended && data.fin;
                if ended {
                    self.data = None;
                }
                if bytes.is_empty() && !fin {
                    continue;
                }
                return Ok(Some(Event::Data { stream, bytes, fin }));
            }
            let Some(&[a, b, c, d, flags, high, middle, low]) = input.first_chunk::<8>() else {
                return Ok(None);
            };
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if a & 0x80 == 0 {
                let stream = some(u32::from_be_bytes([a, b, c, d]))?;
                input.advance(8);
                self.data = Some(Data { stream, remaining: length, fin: flags & FIN != 0 });
                continue;
            }
            if [a, b] != [0x80, 3] {
                return Err(FrameError::Version);
            }
            match self.control(u16::from_be_bytes([c, d]), flags, length, input)? {
                Control::Unfinished => return Ok(None),
                Control::Event(event) => return Ok(Some(event)),
                Control::Nothing => {}
            }
        }
    }

    /// The control frame at the start of `input`.
    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        length: usize,
        input: &mut BytesMut,
    ) -> Result<Control, FrameError> {
        let (least, exact) = match kind {
            SYN_STREAM => (10, false),
            RST_STREAM | GOAWAY => (8, true),
            PING => (4, true),
            SYN_REPLY | HEADERS => (4, false),
            _ => (0, false),
        };
        if length < least || (exact && length != least) {
            return Err(FrameError::Length);
        }
        let word = match input.get(8..12).and_then(<[u8]>::first_chunk) {
            Some(word) => u32::from_be_bytes(*word),
            None if least == 0 => 0,
            None => return Ok(Control::Unfinished),
        };
        let event = match kind {
            SYN_STREAM => Event::Open { stream: some(word)? },
            SYN_REPLY => Event::Reply { stream: some(word)?, fin: flags & FIN != 0 },
            RST_STREAM => Event::Reset { stream: some(word)? },
            PING => Event::Ping(word),
            GOAWAY => Event::GoAway,
            HEADERS if flags & FIN != 0 => {
                Event::Data { stream: some(word)?, bytes: Bytes::new(), fin: true }
            }
            _ => {
                self.skip = 8 + length;
                return Ok(Control::Nothing);
            }
        };
        self.skip = 8 + length;
        Ok(Control::Event(event))
    }
}

enum Control {
    Unfinished,
    /// Nothing of interest.
    Nothing,
    Event(Event),
}

fn some(stream: u32) -> Result<u32, FrameError> {
    let stream = stream & 0x7fff_ffff;
    if stream == 0 { Err(FrameError::Stream) } else { Ok(stream) }
}

/// Writes frames.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    /// The zlib stream of headers has begun.
    begun: bool,
}

impl Encoder {
    /// Opens a stream; numbers are odd and grow.
    pub(crate) fn open(&mut self, stream: u32, headers: &[(&str, &str)], out: &mut BytesMut) {
        let mut block = BytesMut::new();
        block.put_u32(u32::try_from(headers.len()).unwrap_or_default());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(u32::try_from(text.len()).unwrap_or_default());
            block.put_slice(text.as_bytes());
        }
        let mut stored = BytesMut::new();
        if !self.begun {
            self.begun = true;
            stored.put_slice(&[0x78, 0x01]);
        }
        // The empty block at the end makes an inflater give all that came before it (`Z_SYNC_FLUSH`).
        for part in block.chunks(usize::from(u16::MAX)).chain([&[][..]]) {
            let length = u16::try_from(part.len()).unwrap_or_default();
            stored.put_u8(0);
            stored.put_u16_le(length);
            stored.put_u16_le(!length);
            stored.put_slice(part);
        }
        control(SYN_STREAM, stored.len() + 10, out);
        out.put_u32(stream);
        out.put_u32(0);
        out.put_u16(0);
        out.put_slice(&stored);
    }
}

/// Appends data; no more than [`MOST`] bytes.
pub(crate) fn put_data(stream: u32, bytes: &[u8], fin: bool, out: &mut BytesMut) {
    out.put_u32(stream);
    out.put_u32(u32::try_from(bytes.len()).unwrap_or_default() & MOST as u32 | u32::from(fin) << 24);
    out.put_slice(bytes);
}

/// Appends the end of a stream.
pub(crate) fn put_reset(stream: u32, why: u32, out: &mut BytesMut) {
    control(RST_STREAM, 8, out);
    out.put_u32(stream);
    out.put_u32(why);
}

/// Appends a ping, or the answer to one.
pub(crate) fn put_ping(number: u32, out: &mut BytesMut) {
    control(PING, 4, out);
    out.put_u32(number);
}

fn control(kind: u16, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32(u32::try_from(length).unwrap_or_default());
}

#[cfg(test)]
pub(crate) mod tests;
