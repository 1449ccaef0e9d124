//! One header block.

use super::BLOCK;

/// Field positions.
const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const MAJOR: std::ops::Range<usize> = 329..337;
const MINOR: std::ops::Range<usize> = 337..345;
const PREFIX: std::ops::Range<usize> = 345..500;
/// Where star's variant of ustar puts its own mark, and how long its prefix is.
const STAR_MARK: std::ops::Range<usize> = 508..512;
const STAR_PREFIX: usize = 131;

/// A header block whose fields are read on demand.
pub(super) struct RawHeader<'a>(pub(super) &'a [u8; BLOCK]);

/// What a field's violation of the format is called.
pub(super) type Reason = String;

impl RawHeader<'_> {
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Checks what does not depend on the type of entry.
    pub(super) fn validate(&self) -> Result<(), Reason> {
        if !checksum_is_right(self.0) {
            return Err("the header checksum is wrong".to_owned());
        }
        let magic = &self.0[MAGIC];
        let known = magic == b"ustar  \0" || magic == b"ustar\x0000" || !magic.starts_with(b"ustar");
        if !known {
            return Err("unknown ustar version".to_owned());
        }
        Ok(())
    }

    fn is_posix(&self) -> bool {
        &self.0[MAGIC] == b"ustar\x0000"
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.0[TYPE]
    }

    /// The name with its ustar prefix.
    pub(super) fn name(&self) -> Result<Vec<u8>, Reason> {
        let name = text(&self.0[NAME]);
        let prefix = text(&self.0[PREFIX]);
        if prefix.is_empty() || self.typeflag() == b'S' {
            // For GNU sparse headers other fields lie there.
            return Ok(name.to_vec());
        }
        if !self.is_posix() {
            // GNU's incremental format keeps times there; Python reads them as part of the name.
            return Err("a header that is not ustar has a name prefix".to_owned());
        }
        if &self.0[STAR_MARK] == b"tar\0" && prefix.len() > STAR_PREFIX {
            return Err("the name prefix runs into star's time fields".to_owned());
        }
        let mut joined = prefix.to_vec();
        joined.push(b'/');
        joined.extend_from_slice(name);
        Ok(joined)
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[LINK]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32, Reason> {
        // Some writers put the file type there too.
        unsigned(&self.0[MODE], "mode").map(|mode| (mode & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u32, Reason> {
        id(unsigned(&self.0[UID], "uid")?, "uid")
    }

    pub(super) fn gid(&self) -> Result<u32, Reason> {
        id(unsigned(&self.0[GID], "gid")?, "gid")
    }

    pub(super) fn size(&self) -> Result<u64, Reason> {
        unsigned(&self.0[SIZE], "size")
    }

    pub(super) fn mtime(&self) -> Result<i64, Reason> {
        number(&self.0[MTIME], "mtime")
    }

    pub(super) fn device(&self) -> Result<(u32, u32), Reason> {
        let part = |range: std::ops::Range<usize>| {
            let value = unsigned(&self.0[range], "device number")?;
            u32::try_from(value).map_err(|_| "the device number is too large".to_owned())
        };
        Ok((part(MAJOR)?, part(MINOR)?))
    }
}

/// An owner as the kernel knows them: the highest value means "leave it as it is" there.
pub(super) fn id(value: u64, field: &str) -> Result<u32, Reason> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(format!("the {field} {value} is too large")),
    }
}

/// Whether the sum of all bytes is the one the header states. Old writers summed signed bytes.
pub(super) fn checksum_is_right(block: &[u8; BLOCK]) -> bool {
    let Ok(stated) = number(&block[CHECKSUM], "checksum") else { return false };
    let (mut unsigned_sum, mut signed_sum) = (0_i64, 0_i64);
    for (index, byte) in block.iter().enumerate() {
        let byte = if CHECKSUM.contains(&index) { b' ' } else { *byte };
        unsigned_sum += i64::from(byte);
        signed_sum += i64::from(byte.cast_signed());
    }
    stated == unsigned_sum || stated == signed_sum
}

/// A field's bytes up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

pub(super) fn unsigned(field: &[u8], name: &str) -> Result<u64, Reason> {
    u64::try_from(number(field, name)?).map_err(|_| format!("the {name} is negative"))
}

/// An octal number with blanks around it, or GNU's binary form.
pub(super) fn number(field: &[u8], name: &str) -> Result<i64, Reason> {
    let bad = || format!("the {name} field is no number: {:?}", String::from_utf8_lossy(field));
    if let [first @ (0x80 | 0xff), rest @ ..] = field {
        let negative = *first == 0xff;
        let mut value: i64 = if negative { -1 } else { 0 };
        for byte in rest {
            value = value.checked_mul(256).ok_or_else(bad)?;
            value += i64::from(*byte);
        }
        // The first shift of -1 leaves room for exactly the bits that follow.
        return if (value < 0) == negative { Ok(value) } else { Err(bad()) };
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(blank) {
        return Err(bad());
    }
    let mut value: i64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err(bad());
        }
        value = value.checked_mul(8).ok_or_else(bad)? + i64::from(digit - b'0');
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary_and_nothing_else() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"00000000", Some(0)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"\x80\0\0\0\0\0\0\x01\0\0\0\0", Some(1 << 32)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"+000644\0", None),
            (b"0x00644\0", None),
            (b"644\0 7\0 ", None),
            (b"12 34\0  ", None),
            (b"\x80\x80\0\0\0\0\0\0\0\0\0\0", None),
            (b"\x81\0\0\0\0\0\0\0\0\0\0\0", None),
            (b"\xfe\0\0\0\0\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field, "x").ok(), value, "{field:?}");
        }
    }
}
