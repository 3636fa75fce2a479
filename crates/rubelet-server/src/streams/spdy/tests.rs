//! SPDY frames against bytes, and a server's side for tests.

use std::collections::BTreeMap;

use flate2::{Decompress, FlushDecompress};
use proptest::prelude::*;

use super::*;

/// Why a stream is given up (`CANCEL`): how spdystream ends the streams of a connection it closes.
pub(crate) const CANCEL: u32 = 5;

/// What the runtime's server reads: its decoder inflates the headers of a stream, with one inflater for all.
pub(crate) struct ServerDecoder {
    inflater: Decompress,
}

/// What a server reads.
#[derive(Debug, PartialEq)]
pub(crate) enum Received {
    Open(u32, BTreeMap<String, String>),
    Other(Event),
}

impl ServerDecoder {
    pub(crate) fn new() -> Self {
        Self { inflater: Decompress::new(true) }
    }

    /// Takes the next whole frame.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Option<Received> {
        let head = input.first_chunk::<8>()?;
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if input.len() < 8 + length {
            return None;
        }
        let mut frame = input.split_to(8 + length);
        if frame[..4] != [0x80, 3, 0, 1] {
            return Decoder::default().decode(&mut frame).unwrap().map(Received::Other);
        }
        let stream = u32::from_be_bytes(*frame[8..].first_chunk().unwrap());
        let mut headers = Vec::with_capacity(70_000);
        let before = self.inflater.total_in();
        self.inflater.decompress_vec(&frame[18..], &mut headers, FlushDecompress::Sync).unwrap();
        assert_eq!(self.inflater.total_in() - before, frame.len() as u64 - 18, "all of it was read");
        let mut headers = &headers[..];
        let text = |headers: &mut &[u8]| {
            let length = headers.get_u32() as usize;
            let text = String::from_utf8(headers[..length].to_vec()).unwrap();
            headers.advance(length);
            text
        };
        let count = headers.get_u32();
        let pairs = (0..count).map(|_| (text(&mut headers), text(&mut headers))).collect();
        assert!(headers.is_empty());
        Some(Received::Open(stream, pairs))
    }
}

pub(crate) fn put_reply(stream: u32, out: &mut BytesMut) {
    // spdystream sends an empty block of headers, compressed; nobody looks at it.
    control(SYN_REPLY, 4 + 6, out);
    out.put_u32(stream);
    out.put_slice(&[1, 2, 3, 4, 5, 6]);
}

pub(crate) fn put_go_away(out: &mut BytesMut) {
    control(GOAWAY, 8, out);
    out.put_u64(0);
}

fn all(bytes: &[u8], step: usize) -> Result<Vec<Event>, FrameError> {
    let mut decoder = Decoder::default();
    let mut input = BytesMut::new();
    let mut events = Vec::new();
    for piece in bytes.chunks(step) {
        input.extend_from_slice(piece);
        while let Some(event) = decoder.decode(&mut input)? {
            events.push(event);
        }
        assert!(input.len() < 12 + step, "nothing but a head is kept");
    }
    Ok(events)
}

#[test]
fn reads_what_a_server_sends() {
    let mut bytes = BytesMut::new();
    // Settings, a window update and headers say nothing of interest.
    control(4, 12, &mut bytes);
    bytes.put_slice(&[0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 100]);
    put_reply(1, &mut bytes);
    control(9, 8, &mut bytes);
    bytes.put_u64(5);
    put_data(3, b"out", false, &mut bytes);
    put_data(3, b"", false, &mut bytes);
    put_data(1, b"", true, &mut bytes);
    control(HEADERS, 4, &mut bytes);
    bytes.put_u32(3);
    put_ping(2, &mut bytes);
    put_reset(3, CANCEL, &mut bytes);
    Encoder::default().open(2, &[], &mut bytes);
    put_go_away(&mut bytes);
    let data =
        |stream, bytes: &'static [u8], fin| Event::Data { stream, bytes: Bytes::from_static(bytes), fin };
    let expected = [
        Event::Reply { stream: 1, fin: false },
        data(3, b"out", false),
        data(1, b"", true),
        Event::Ping(2),
        Event::Reset { stream: 3 },
        Event::Open { stream: 2 },
        Event::GoAway,
    ];
    assert_eq!(all(&bytes, 1000).unwrap(), expected);
    let pieces = all(&bytes, 1).unwrap();
    assert_eq!(pieces.len(), expected.len() + 2, "data come as they are read: {pieces:?}");
}

#[test]
fn refuses_what_breaks_the_protocol() {
    for (bytes, error) in [
        (&[0x80, 2, 0, 1, 0, 0, 0, 10, 0, 0][..], FrameError::Version),
        (&[0, 0, 0, 0, 0, 0, 0, 1], FrameError::Stream),
        (&[0x80, 3, 0, 2, 0, 0, 0, 4, 0x80, 0, 0, 0], FrameError::Stream),
        (&[0x80, 3, 0, 6, 0, 0, 0, 5, 0, 0, 0, 1], FrameError::Length),
        (&[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1], FrameError::Length),
        (&[0x80, 3, 0, 1, 0, 0, 0, 3, 0, 0, 0, 1], FrameError::Length),
    ] {
        assert_eq!(all(bytes, 1000), Err(error), "{bytes:?}");
    }
}

#[test]
fn a_server_reads_the_headers() {
    let mut encoder = Encoder::default();
    let mut server = ServerDecoder::new();
    let mut bytes = BytesMut::new();
    let long = "x".repeat(66_000);
    for (stream, value) in [(1, "error"), (3, long.as_str()), (5, "")] {
        encoder.open(stream, &[("streamtype", value), ("b", "c")], &mut bytes);
        let headers =
            [("streamtype", value), ("b", "c")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(server.decode(&mut bytes), Some(Received::Open(stream, BTreeMap::from(headers))));
    }
    assert!(bytes.is_empty());
}

proptest! {
    #[test]
    fn any_bytes_are_events_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), step in 1usize..40) {
        let _ = all(&bytes, step);
    }

    #[test]
    fn any_control_frames_are_events_or_an_error(
        frames in proptest::collection::vec((0u16..11, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20)), 0..9),
        step in 1usize..40,
    ) {
        let mut bytes = BytesMut::new();
        for (kind, flags, payload) in frames {
            let start = bytes.len();
            control(kind, payload.len(), &mut bytes);
            bytes[start + 4] = flags;
            bytes.put_slice(&payload);
        }
        let _ = all(&bytes, step);
    }

    #[test]
    fn data_arrive_whole(
        sent in proptest::collection::vec((1u32..6, proptest::collection::vec(any::<u8>(), 0..300)), 0..9),
        step in 1usize..40,
    ) {
        let mut bytes = BytesMut::new();
        let mut expected = BTreeMap::<u32, Vec<u8>>::new();
        for (stream, data) in sent {
            put_data(stream, &data, false, &mut bytes);
            expected.entry(stream).or_default().extend(data);
        }
        let mut read = BTreeMap::<u32, Vec<u8>>::new();
        for event in all(&bytes, step).unwrap() {
            let Event::Data { stream, bytes, fin: false } = event else { panic!("{event:?}") };
            read.entry(stream).or_default().extend(bytes);
        }
        expected.retain(|_, data| !data.is_empty());
        prop_assert_eq!(read, expected);
    }
}
