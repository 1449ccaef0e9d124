//! How the owners of files on the host are shown in a container: nothing on disk changes.
//!
//! As text: `auto`, `idmap`, or `idmap=uids=DISK-SHOWN-COUNT[#…];gids=…` (Podman's and crun's notation).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Ranges in one map at the most, as in the kernel.
const MOST: usize = 340;

/// Whose files are whose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// What belongs to the owner of the source belongs to the container's user, and the other way round.
    Auto,
    /// By these maps; without any, by the one of the container's user namespace.
    Mapped {
        /// Users.
        uids: Vec<IdRange>,
        /// Groups.
        gids: Vec<IdRange>,
    },
}

/// A range of ids on disk, and what it is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id on disk.
    pub on_disk: u32,
    /// First id shown.
    pub shown: u32,
    /// How many.
    pub count: u32,
}

/// The text is no ownership.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid ownership {0:?}: use auto, idmap, or idmap=uids=DISK-SHOWN-COUNT;gids=DISK-SHOWN-COUNT")]
pub struct InvalidOwnership(String);

impl FromStr for Ownership {
    type Err = InvalidOwnership;

    fn from_str(text: &str) -> Result<Self, InvalidOwnership> {
        let invalid = || InvalidOwnership(text.chars().take(200).collect());
        match text {
            "auto" => return Ok(Self::Auto),
            "idmap" => return Ok(Self::Mapped { uids: Vec::new(), gids: Vec::new() }),
            _ => {}
        }
        let maps = text.strip_prefix("idmap=").ok_or_else(invalid)?;
        let (mut uids, mut gids) = (None, None);
        for map in maps.split(';') {
            let (place, ranges) = match map.split_once('=') {
                Some(("uids", ranges)) => (&mut uids, ranges),
                Some(("gids", ranges)) => (&mut gids, ranges),
                _ => return Err(invalid()),
            };
            if place.replace(parse_ranges(ranges).ok_or_else(invalid)?).is_some() {
                return Err(invalid());
            }
        }
        match (uids, gids) {
            (Some(uids), Some(gids)) => Ok(Self::Mapped { uids, gids }),
            _ => Err(invalid()),
        }
    }
}

fn parse_ranges(text: &str) -> Option<Vec<IdRange>> {
    let range = |text: &str| {
        let mut numbers = text.split('-').map(|number| number.parse::<u32>().ok());
        let range = IdRange { on_disk: numbers.next()??, shown: numbers.next()??, count: numbers.next()?? };
        let fits = |first: u32| first.checked_add(range.count).is_some();
        (numbers.next().is_none() && range.count > 0 && fits(range.on_disk) && fits(range.shown))
            .then_some(range)
    };
    let ranges: Vec<IdRange> = text.split('#').map(range).collect::<Option<_>>()?;
    let apart = |first: fn(&IdRange) -> u32| {
        let mut sorted: Vec<(u32, u32)> = ranges.iter().map(|range| (first(range), range.count)).collect();
        sorted.sort_unstable();
        sorted.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
    };
    (ranges.len() <= MOST && apart(|range| range.on_disk) && apart(|range| range.shown)).then_some(ranges)
}

impl fmt::Display for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = |ranges: &[IdRange]| -> String {
            let texts =
                ranges.iter().map(|range| format!("{}-{}-{}", range.on_disk, range.shown, range.count));
            texts.collect::<Vec<_>>().join("#")
        };
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Mapped { uids, gids } if uids.is_empty() && gids.is_empty() => f.write_str("idmap"),
            Self::Mapped { uids, gids } => write!(f, "idmap=uids={};gids={}", write(uids), write(gids)),
        }
    }
}

/// Every id as it is, but for two that take each other's place.
#[must_use]
pub fn exchanged(one: u32, other: u32) -> Vec<IdRange> {
    /// One more than the largest id there is.
    const END: u32 = u32::MAX;
    let (low, high) = (one.min(other), one.max(other));
    let same = |from: u32, to: u32| IdRange { on_disk: from, shown: from, count: to - from };
    let single = |on_disk: u32, shown: u32| IdRange { on_disk, shown, count: 1 };
    let mut ranges = if low == high {
        vec![same(0, END)]
    } else {
        vec![same(0, low), single(low, high), same(low + 1, high), single(high, low), same(high + 1, END)]
    };
    ranges.retain(|range| range.count > 0);
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back() {
        for text in
            ["auto", "idmap", "idmap=uids=1000-0-1;gids=100-0-1", "idmap=uids=0-1-10#10-11-10;gids=0-100-10"]
        {
            assert_eq!(text.parse::<Ownership>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "Auto",
            "idmap=",
            "idmap=uids=1-2-3",
            "idmap=uids=1-2;gids=1-2-3",
            "idmap=uids=1-2-0;gids=1-2-3",
            "idmap=uids=1-2-3;uids=1-2-3",
            "idmap=uids=0-0-2#1-5-1;gids=0-0-1",
            "idmap=uids=4294967295-0-1;gids=0-0-1",
            "idmap=uids=-1-0-1;gids=0-0-1",
        ] {
            bad.parse::<Ownership>().unwrap_err();
        }
    }

    #[test]
    fn two_ids_exchange_their_places_and_all_others_stay() {
        let shown = |ranges: &[IdRange], id: u32| {
            let mut found =
                ranges.iter().filter(|range| id >= range.on_disk && id - range.on_disk < range.count);
            let range = found.next().unwrap();
            assert!(found.next().is_none());
            range.shown + (id - range.on_disk)
        };
        for (one, other) in [(0, 1000), (1000, 0), (1000, 1001), (0, 1), (5, 5), (0, u32::MAX - 1)] {
            let ranges = exchanged(one, other);
            assert_eq!((shown(&ranges, one), shown(&ranges, other)), (other, one));
            for id in [2, 999, 1002, 65534, u32::MAX - 2] {
                assert_eq!(shown(&ranges, id), id, "{one} {other}");
            }
        }
    }
}
