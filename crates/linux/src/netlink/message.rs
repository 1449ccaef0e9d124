//! The byte layout of netlink: messages, attributes, and nothing else.
//!
//! All integers of the framing are in the machine's byte order; attribute payloads are the caller's business. Messages and
//! attributes start at multiples of four bytes.

use super::Error;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// The bits of an attribute's type that are its number; the others say "nested" and "network byte order".
const TYPE_MASK: u16 = 0x3fff;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// Messages that go to the kernel in one call.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    overflow: bool,
}

impl Batch {
    /// `NLM_F_ACK`: answer this message even when it succeeds.
    pub const ACK: u16 = 0x4;
    /// `NLM_F_ROOT | NLM_F_MATCH`: answer with every object.
    pub const DUMP: u16 = 0x300;
    /// `NLM_F_CREATE`: make the object if it does not exist.
    pub const CREATE: u16 = 0x400;
    /// `NLM_F_EXCL`: fail if the object exists.
    pub const EXCL: u16 = 0x200;
    /// `NLM_F_REPLACE`: replace the object if it exists.
    pub const REPLACE: u16 = 0x100;
    /// `NLM_F_APPEND`: add to the end.
    pub const APPEND: u16 = 0x800;
    /// `NLM_F_REQUEST`, set on every message.
    const REQUEST: u16 = 0x1;

    /// A batch without messages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message: its type, its flags, the fixed header of its family, then attributes.
    pub fn push(&mut self, kind: u16, flags: u16, header: &[u8], fill: impl FnOnce(&mut AttributesMut<'_>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | Self::REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(header);
        pad(&mut self.bytes);
        fill(&mut AttributesMut { bytes: &mut self.bytes, overflow: &mut self.overflow });
        match u32::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
    }

    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// True when there is no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The bytes as they are now.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, with message `n` numbered `first + n`.
    pub(super) fn numbered(&mut self, first: u32) -> Result<&[u8], Error> {
        if self.overflow {
            return Err(Error::TooLong);
        }
        for (index, start) in self.starts.iter().enumerate() {
            let number = first.wrapping_add(u32::try_from(index).map_err(|_| Error::TooLong)?);
            self.bytes[start + 8..start + 12].copy_from_slice(&number.to_ne_bytes());
        }
        Ok(&self.bytes)
    }

    /// The flags of message `index`.
    pub(super) fn flags(&self, index: usize) -> u16 {
        let start = self.starts[index];
        u16::from_ne_bytes([self.bytes[start + 6], self.bytes[start + 7]])
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(aligned(bytes.len()), 0);
}

/// The attributes of a message that is being built.
#[derive(Debug)]
pub struct AttributesMut<'a> {
    bytes: &'a mut Vec<u8>,
    overflow: &'a mut bool,
}

impl AttributesMut<'_> {
    /// An attribute with any payload.
    pub fn bytes(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        self.attribute(kind, |bytes, _| bytes.extend_from_slice(payload))
    }

    /// One byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// Two bytes in the machine's order.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Four bytes in the machine's order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Four bytes in network order, as everything in netfilter.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Two bytes in network order.
    pub fn be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A string with its terminating zero byte. An inner zero byte would end it early, so it ends the string here.
    pub fn string(&mut self, kind: u16, text: &str) -> &mut Self {
        let text = text.split('\0').next().unwrap_or_default();
        self.attribute(kind, |bytes, _| {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        })
    }

    /// An attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut AttributesMut<'_>)) -> &mut Self {
        self.attribute(kind | NESTED, |bytes, overflow| fill(&mut AttributesMut { bytes, overflow }))
    }

    /// An attribute that holds a fixed header and then attributes (as `VETH_INFO_PEER`).
    pub fn nest_after(
        &mut self,
        kind: u16,
        header: &[u8],
        fill: impl FnOnce(&mut AttributesMut<'_>),
    ) -> &mut Self {
        self.attribute(kind | NESTED, |bytes, overflow| {
            bytes.extend_from_slice(header);
            pad(bytes);
            fill(&mut AttributesMut { bytes, overflow });
        })
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>, &mut bool)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self.bytes, self.overflow);
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => *self.overflow = true,
        }
        pad(self.bytes);
        self
    }
}

/// Bytes that do not follow the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message")]
pub struct Malformed;

/// One received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its type.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// The number of the message it answers.
    pub sequence: u32,
    /// What follows the header, without padding.
    pub payload: &'a [u8],
}

/// The messages of one datagram.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Over the bytes of a datagram.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = self.split();
        if frame.is_err() {
            // Nothing after a broken length can be trusted.
            self.rest = &[];
        }
        Some(frame)
    }
}

impl<'a> Frames<'a> {
    fn split(&mut self) -> Result<Frame<'a>, Malformed> {
        let bytes = self.rest;
        let length = read_u32(bytes, 0)? as usize;
        let payload = bytes.get(HEADER..length).ok_or(Malformed)?;
        self.rest = bytes.get(aligned(length)..).unwrap_or_default();
        Ok(Frame {
            kind: read_u16(bytes, 4)?,
            flags: read_u16(bytes, 6)?,
            sequence: read_u32(bytes, 8)?,
            payload,
        })
    }
}

/// The attributes of a received message or attribute.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Over the bytes after the fixed header.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Over what follows a fixed header of `header` bytes; nothing if there is not that much.
    #[must_use]
    pub fn after(payload: &'a [u8], header: usize) -> Self {
        Self::new(payload.get(aligned(header)..).unwrap_or_default())
    }

    /// The payload of the first attribute of this type.
    ///
    /// # Errors
    /// [`Malformed`] when the layout breaks before it is found.
    pub fn find(mut self, kind: u16) -> Result<Option<&'a [u8]>, Malformed> {
        self.find_map(|attribute| match attribute {
            Ok((found, payload)) if found == kind => Some(Ok(payload)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
        .transpose()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let attribute = self.split();
        if attribute.is_err() {
            self.rest = &[];
        }
        Some(attribute)
    }
}

impl<'a> Attributes<'a> {
    fn split(&mut self) -> Result<(u16, &'a [u8]), Malformed> {
        let bytes = self.rest;
        let length = usize::from(read_u16(bytes, 0)?);
        let kind = read_u16(bytes, 2)? & TYPE_MASK;
        let payload = bytes.get(ATTRIBUTE..length).ok_or(Malformed)?;
        self.rest = bytes.get(aligned(length)..).unwrap_or_default();
        Ok((kind, payload))
    }
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let field = bytes.get(at..at + 2).and_then(|field| field.try_into().ok()).ok_or(Malformed)?;
    Ok(u16::from_ne_bytes(field))
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok()).ok_or(Malformed)?;
    Ok(u32::from_ne_bytes(field))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_batch_reads_back_as_built() {
        let mut batch = Batch::new();
        batch.push(16, Batch::ACK, &[9; 5], |attributes| {
            attributes.string(3, "eth0\0x").u8(5, 7).nest(18, |inner| {
                inner.be16(1, 0x1234).nest_after(2, &[1, 2, 3], |deep| {
                    deep.u32(1, 5);
                });
            });
        });
        batch.push(17, 0, &[], |_| {});
        assert_eq!(batch.len(), 2);
        let bytes = batch.numbered(41).unwrap().to_vec();
        let frames: Vec<_> = Frames::new(&bytes).map(Result::unwrap).collect();
        assert_eq!((frames[0].kind, frames[0].flags, frames[0].sequence), (16, 5, 41));
        assert_eq!((frames[1].kind, frames[1].flags, frames[1].sequence), (17, 1, 42));
        let attributes: Vec<_> = Attributes::after(frames[0].payload, 5).map(Result::unwrap).collect();
        assert_eq!(attributes[0], (3, &b"eth0\0"[..]));
        assert_eq!(attributes[1], (5, &[7][..]));
        let nested = Attributes::new(attributes[2].1);
        assert_eq!(attributes[2].0, 18);
        assert_eq!(nested.clone().find(1).unwrap(), Some(&[0x12, 0x34][..]));
        let deep = nested.find(2).unwrap().unwrap();
        assert_eq!(Attributes::after(deep, 3).find(1).unwrap(), Some(&5_u32.to_ne_bytes()[..]));
    }

    #[test]
    fn an_attribute_that_is_too_long_is_refused() {
        let mut batch = Batch::new();
        batch.push(1, 0, &[], |attributes| {
            attributes.bytes(1, &vec![0; 65_536]);
        });
        assert!(matches!(batch.numbered(1), Err(Error::TooLong)));
    }

    #[test]
    fn broken_lengths_end_the_walk() {
        for length in [0_u32, 15, 17, u32::MAX] {
            let mut bytes = vec![0; 16];
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Frames::new(&bytes).collect::<Vec<_>>(), [Err(Malformed)], "{length}");
        }
        for length in [0_u16, 3, 9, u16::MAX] {
            let mut bytes = vec![0; 8];
            bytes[..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Attributes::new(&bytes).collect::<Vec<_>>(), [Err(Malformed)], "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut seen = 0;
            for frame in Frames::new(&bytes).flatten() {
                seen += HEADER + frame.payload.len();
                for attribute in Attributes::new(frame.payload).flatten() {
                    prop_assert!(attribute.1.len() <= frame.payload.len());
                }
            }
            prop_assert!(seen <= bytes.len());
        }

        #[test]
        fn a_damaged_message_never_yields_more_than_it_has(
            flips in prop::collection::vec((0_usize..80, any::<u8>()), 1..6),
        ) {
            let mut batch = Batch::new();
            batch.push(20, Batch::ACK, &[0; 8], |attributes| {
                attributes.u32(1, 1).nest(2, |inner| {
                    inner.string(1, "abcdef").u16(2, 9);
                });
            });
            batch.push(21, 0, &[0; 4], |attributes| {
                attributes.bytes(7, &[1; 13]);
            });
            let mut bytes = batch.numbered(1).unwrap().to_vec();
            for (at, value) in flips {
                let at = at % bytes.len();
                bytes[at] ^= value;
            }
            let total: usize = Frames::new(&bytes).flatten().map(|frame| frame.payload.len()).sum();
            prop_assert!(total <= bytes.len());
            for frame in Frames::new(&bytes).flatten() {
                let total: usize = Attributes::after(frame.payload, 8).flatten().map(|(_, p)| p.len()).sum();
                prop_assert!(total <= frame.payload.len());
            }
        }
    }
}
