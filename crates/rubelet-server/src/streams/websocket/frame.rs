//! WebSocket frames as a server reads and writes them (RFC 6455 section 5).
//!
//! Pure. Frames are taken as their bytes come, so that a message of any size costs no more memory than what was read
//! at once.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// The longest payload of a control frame.
const CONTROL: u64 = 125;

/// Whether a message is text or binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A part of a message.
    Part { kind: Kind, bytes: Bytes, first: bool, last: bool },
    /// To be answered with a pong that says the same.
    Ping(Bytes),
    /// An answer, or a sign of life.
    Pong,
    /// The end of the peer's messages, with its reason.
    Close(Option<u16>),
}

/// How a peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame with reserved bits or an unknown opcode")]
    Reserved,
    #[error("frame of a client without a mask")]
    Unmasked,
    #[error("control frame that is too long or in parts")]
    Control,
    #[error("message inside another message, or a part of none")]
    Order,
}

/// Reads frames from a client's bytes.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The data frame whose payload is being read.
    frame: Option<Payload>,
    /// The message whose parts are being read.
    message: Option<Message>,
}

#[derive(Debug)]
struct Payload {
    remaining: u64,
    mask: [u8; 4],
    offset: usize,
    fin: bool,
}

#[derive(Debug, Clone, Copy)]
struct Message {
    kind: Kind,
    /// A part of it was given.
    begun: bool,
}

impl Decoder {
    /// Takes the next event off what was read; `None` when more has to be read.
    ///
    /// # Errors
    /// [`FrameError`]; the connection is to be closed then.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Event>, FrameError> {
        loop {
            if self.frame.is_some() {
                return Ok(self.part(input));
            }
            let Some(head) = Head::peek(input)? else { return Ok(None) };
            if head.opcode >= 8 {
                let length = usize::try_from(head.length).unwrap_or(usize::MAX);
                if input.len() - head.size < length {
                    return Ok(None);
                }
                input.advance(head.size);
                let mut payload = input.split_to(length);
                unmask(&mut payload, head.mask, 0);
                return Ok(Some(match head.opcode {
                    8 => Event::Close(payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]))),
                    9 => Event::Ping(payload.freeze()),
                    _ => Event::Pong,
                }));
            }
            self.message = match (head.opcode, self.message) {
                (0, Some(message)) => Some(message),
                (1, None) => Some(Message { kind: Kind::Text, begun: false }),
                (2, None) => Some(Message { kind: Kind::Binary, begun: false }),
                _ => return Err(FrameError::Order),
            };
            input.advance(head.size);
            self.frame = Some(Payload { remaining: head.length, mask: head.mask, offset: 0, fin: head.fin });
        }
    }

    fn part(&mut self, input: &mut BytesMut) -> Option<Event> {
        let frame = self.frame.as_mut()?;
        let message = self.message.as_mut()?;
        let length = usize::try_from(frame.remaining).unwrap_or(usize::MAX).min(input.len());
        if length == 0 && frame.remaining > 0 {
            return None;
        }
        let mut bytes = input.split_to(length);
        unmask(&mut bytes, frame.mask, frame.offset);
        frame.offset = (frame.offset + length) % 4;
        frame.remaining -= length as u64;
        let ended = frame.remaining == 0;
        let last = ended && frame.fin;
        let event = Event::Part { kind: message.kind, bytes: bytes.freeze(), first: !message.begun, last };
        message.begun = true;
        if ended {
            self.frame = None;
        }
        if last {
            self.message = None;
        }
        Some(event)
    }
}

struct Head {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    length: u64,
    /// How many bytes the head takes.
    size: usize,
}

impl Head {
    fn peek(input: &[u8]) -> Result<Option<Self>, FrameError> {
        let &[first, second, ref rest @ ..] = input else { return Ok(None) };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        if first & 0x70 != 0 || !matches!(opcode, 0..=2 | 8..=10) {
            return Err(FrameError::Reserved);
        }
        if second & 0x80 == 0 {
            return Err(FrameError::Unmasked);
        }
        let (length, extended) = match second & 0x7f {
            126 => match rest {
                [a, b, ..] => (u64::from(u16::from_be_bytes([*a, *b])), 2),
                _ => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(length) => (u64::from_be_bytes(*length), 8),
                None => return Ok(None),
            },
            short => (u64::from(short), 0),
        };
        if length > i64::MAX as u64 {
            return Err(FrameError::Reserved);
        }
        if opcode >= 8 && (length > CONTROL || !fin) {
            return Err(FrameError::Control);
        }
        let Some(mask) = rest.get(extended..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
        Ok(Some(Self { fin, opcode, mask: *mask, length, size: 2 + extended + 4 }))
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    for (byte, key) in bytes.iter_mut().zip(mask.iter().cycle().skip(offset)) {
        *byte ^= key;
    }
}

/// Appends a whole binary message, which begins with `channel` where there is one.
pub(crate) fn put_binary(channel: Option<u8>, bytes: &[u8], out: &mut BytesMut) {
    put_head(2, bytes.len() + usize::from(channel.is_some()), out);
    out.extend(channel);
    out.put_slice(bytes);
}

/// Appends a pong.
pub(crate) fn put_pong(bytes: &[u8], out: &mut BytesMut) {
    put_head(10, bytes.len(), out);
    out.put_slice(bytes);
}

/// Appends a close frame.
pub(crate) fn put_close(code: u16, out: &mut BytesMut) {
    put_head(8, 2, out);
    out.put_u16(code);
}

fn put_head(opcode: u8, length: usize, out: &mut BytesMut) {
    out.put_u8(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ ..=125), _) => out.put_u8(length),
        (_, Ok(length)) => {
            out.put_u8(126);
            out.put_u16(length);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame as clients send it.
    pub(crate) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut head = BytesMut::new();
        put_head(0, payload.len(), &mut head);
        head[0] = first;
        head[1] |= 0x80;
        let mask = [1, 2, 3, 4];
        head.put_slice(&mask);
        let mut payload = payload.to_vec();
        unmask(&mut payload, mask, 0);
        [&head[..], &payload].concat()
    }

    fn all(bytes: &[u8]) -> Result<Vec<Event>, FrameError> {
        let mut decoder = Decoder::default();
        let mut input = BytesMut::from(bytes);
        std::iter::from_fn(|| decoder.decode(&mut input).transpose()).collect()
    }

    fn part(bytes: &[u8], first: bool, last: bool) -> Event {
        Event::Part { kind: Kind::Binary, bytes: Bytes::copy_from_slice(bytes), first, last }
    }

    #[test]
    fn reads_messages_and_control_frames_among_their_parts() {
        let bytes = [
            client_frame(0x02, b"ab"),
            client_frame(0x89, b"ping"),
            client_frame(0x00, b""),
            client_frame(0x80, b"c"),
            client_frame(0x82, b""),
            client_frame(0x8a, b""),
            client_frame(0x88, &[0x03, 0xe8, b'x']),
        ]
        .concat();
        assert_eq!(
            all(&bytes).unwrap(),
            [
                part(b"ab", true, false),
                Event::Ping(Bytes::from_static(b"ping")),
                part(b"", false, false),
                part(b"c", false, true),
                part(b"", true, true),
                Event::Pong,
                Event::Close(Some(1000)),
            ]
        );
        assert_eq!(all(&client_frame(0x88, b"")).unwrap(), [Event::Close(None)]);
    }

    #[test]
    fn refuses_what_breaks_the_protocol() {
        for (bytes, error) in [
            (vec![0x82, 0x01, b'x'], FrameError::Unmasked),
            (client_frame(0xc2, b"x"), FrameError::Reserved),
            (client_frame(0x83, b"x"), FrameError::Reserved),
            (client_frame(0x80, b"x"), FrameError::Order),
            ([client_frame(0x02, b"x"), client_frame(0x82, b"x")].concat(), FrameError::Order),
            (client_frame(0x09, b"x"), FrameError::Control),
            (client_frame(0x89, &[0; 126]), FrameError::Control),
            (vec![0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0], FrameError::Reserved),
        ] {
            assert_eq!(all(&bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn writes_heads_of_every_size() {
        for (length, head) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = BytesMut::new();
            put_binary(None, &vec![7; length], &mut out);
            assert_eq!((&out[..head.len()], out.len()), (head, head.len() + length));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_events_or_an_error(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..10),
        ) {
            let mut decoder = Decoder::default();
            let mut input = BytesMut::new();
            'all: for piece in pieces {
                input.extend_from_slice(&piece);
                loop {
                    match decoder.decode(&mut input) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'all,
                    }
                }
                prop_assert!(input.len() < 140, "nothing but a head or a control frame is kept");
            }
        }

        #[test]
        fn messages_arrive_whole(
            messages in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..4), 0..5),
            step in 1usize..50,
        ) {
            let mut bytes = Vec::new();
            for frames in &messages {
                for (at, frame) in frames.iter().enumerate() {
                    let first = if at == 0 { 0x02 } else { 0x00 };
                    let fin = if at + 1 == frames.len() { 0x80 } else { 0x00 };
                    bytes.extend(client_frame(first | fin, frame));
                }
            }
            let mut decoder = Decoder::default();
            let mut input = BytesMut::new();
            let (mut read, mut message) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(step) {
                input.extend_from_slice(piece);
                while let Some(event) = decoder.decode(&mut input).unwrap() {
                    let Event::Part { bytes, first, last, .. } = event else { panic!("{event:?}") };
                    if first {
                        message = Vec::new();
                    }
                    message.extend_from_slice(&bytes);
                    if last {
                        read.push(std::mem::take(&mut message));
                    }
                }
            }
            let sent: Vec<Vec<u8>> = messages.iter().map(|frames| frames.concat()).collect();
            prop_assert_eq!(read, sent);
        }
    }
}
