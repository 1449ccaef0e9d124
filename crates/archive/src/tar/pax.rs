//! The records of a PAX extended header.

use std::ffi::CString;

use super::header::{Reason, id};
use super::sparse;

/// What a PAX header says about the next entry.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
    pub(super) sparse: sparse::PaxSparse,
}

const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";
/// Attributes of one entry; the names of more than this do not fit in what the kernel lists. Each is compared with all
/// others.
const MAX_XATTRS: usize = 4096;

impl Extensions {
    pub(super) fn parse(data: &[u8]) -> Result<Self, Reason> {
        let mut extensions = Self::default();
        for record in Records(data) {
            let (key, value) = record?;
            extensions.take(key, value)?;
        }
        Ok(extensions)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Reason> {
        if let Some(name) = key.strip_prefix(XATTR) {
            let name = CString::new(name)
                .ok()
                .filter(|name| !name.is_empty())
                .ok_or_else(|| "an extended attribute has no valid name".to_owned())?;
            if self.xattrs.len() >= MAX_XATTRS {
                return Err(format!("more than {MAX_XATTRS} extended attributes"));
            }
            self.xattrs.retain(|(other, _)| *other != name);
            self.xattrs.push((name, value.to_vec()));
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(SPARSE) {
            return self.sparse.take(name, value);
        }
        match key {
            b"path" => self.path = Some(file_name(value)?),
            b"linkpath" => self.link = Some(file_name(value)?),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(id(decimal(value)?, "uid")?),
            b"gid" => self.gid = Some(id(decimal(value)?, "gid")?),
            b"mtime" => self.mtime = Some(time(value)?),
            // Owner names, other times, comments and other tools' own keys do not change what is unpacked.
            _ => {}
        }
        Ok(())
    }
}

/// Checks a global header. Its records would apply to all entries that follow, which tools handle differently, so only
/// those that change nothing (git's commit id) are let through.
pub(super) fn check_global(data: &[u8]) -> Result<(), Reason> {
    for record in Records(data) {
        let (key, _) = record?;
        if key != b"comment" && !key.starts_with(b"VENDOR.") {
            let key = String::from_utf8_lossy(key).into_owned();
            return Err(format!("a global header sets {key:?} for all entries, which is not supported"));
        }
    }
    Ok(())
}

/// Iterates over `"<length> <key>=<value>\n"`.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_err() {
            self.0 = &[];
        }
        Some(record)
    }
}

impl<'a> Records<'a> {
    fn record(&mut self) -> Result<(&'a [u8], &'a [u8]), Reason> {
        let bad = || "a PAX record is malformed".to_owned();
        let space = self.0.iter().take(20).position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length = usize::try_from(decimal(&self.0[..space])?).map_err(|_| bad())?;
        if length <= space + 1 || length > self.0.len() {
            return Err(bad());
        }
        let (record, rest) = self.0.split_at(length);
        let body = record[space + 1..].strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = body.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        let (key, value) = (&body[..equals], &body[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(bad());
        }
        self.0 = rest;
        Ok((key, value))
    }
}

fn file_name(value: &[u8]) -> Result<Vec<u8>, Reason> {
    if value.is_empty() || value.contains(&0) {
        return Err("a PAX name is empty or has a NUL".to_owned());
    }
    Ok(value.to_vec())
}

pub(super) fn decimal(value: &[u8]) -> Result<u64, Reason> {
    let bad = || format!("a PAX number is malformed: {:?}", String::from_utf8_lossy(value));
    if value.is_empty() || value.len() > 20 || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)
}

/// Seconds with a fraction of any length; what is finer than nanoseconds is cut off.
fn time(value: &[u8]) -> Result<(i64, u32), Reason> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let (seconds, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &[][..]),
    };
    let bad = || format!("a PAX time is malformed: {:?}", String::from_utf8_lossy(value));
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let seconds = i64::try_from(decimal(seconds)?).map_err(|_| bad())?;
    let nanoseconds = (0..9)
        .fold(0_u32, |sum, place| sum * 10 + fraction.get(place).map_or(0, |digit| u32::from(digit - b'0')));
    Ok(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_by_their_length() {
        let extensions =
            Extensions::parse(b"12 path=a\nb\n20 mtime=-1.5000001\n28 SCHILY.xattr.user.x=a=\0b\n").unwrap();
        assert_eq!(extensions.path.unwrap(), b"a\nb");
        assert_eq!(extensions.mtime.unwrap(), (-2, 499_999_900));
        assert_eq!(extensions.xattrs, [(CString::from(c"user.x"), b"a=\0b".to_vec())]);
    }

    #[test]
    fn im_08_attributes_are_counted_before_they_are_compared() {
        let record = |number: usize| format!("{} SCHILY.xattr.user.{number:08}=\n", 31).into_bytes();
        assert_eq!(record(0).len(), 31);
        let data: Vec<u8> = (0..MAX_XATTRS).flat_map(record).collect();
        assert_eq!(Extensions::parse(&data).unwrap().xattrs.len(), MAX_XATTRS);
        let data: Vec<u8> = (0..=MAX_XATTRS).flat_map(record).collect();
        assert!(Extensions::parse(&data).unwrap_err().contains("extended attributes"));
    }

    #[test]
    fn malformed_records_are_refused() {
        for data in [
            &b"path=x\n"[..],
            b"8 path=x\n",
            b"11 path=x\n",
            b"10 path=xy",
            b"-9 path=x\n",
            b"0 path=x\n",
            b"99999999999999999999999 path=x\n",
            b"7 =xyz\n",
            b"8 path=\n",
            b"11 path=x\0\n",
            b"11 size=-1\n",
            b"12 size=0x1\n",
            b"18 uid=4294967295\n",
            b"11 mtime=\n\n",
            b"10 mtime=\n",
            b"10 path=x\n\0\0",
        ] {
            assert!(Extensions::parse(data).is_err(), "{:?}", String::from_utf8_lossy(data));
        }
    }
}
