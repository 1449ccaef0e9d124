//! Maps of user and group ids between a user namespace and what is outside of it.

use std::fmt;

/// Lines in one map at the most, as in the kernel.
pub const MOST: usize = 340;

/// A range of ids inside, and what it is outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A map: ranges that do not overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map(Vec<Range>);

impl Map {
    /// Of these ranges; `None` if it is empty, too long, or not one to one.
    #[must_use]
    pub fn new(ranges: Vec<Range>) -> Option<Self> {
        let fits = |first: u32, count: u32| count > 0 && first.checked_add(count).is_some();
        let apart = |first: fn(&Range) -> u32| {
            let mut all: Vec<(u32, u32)> = ranges.iter().map(|range| (first(range), range.count)).collect();
            all.sort_unstable();
            all.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
        };
        let good = (1..=MOST).contains(&ranges.len())
            && ranges.iter().all(|range| fits(range.inside, range.count) && fits(range.outside, range.count))
            && apart(|range| range.inside)
            && apart(|range| range.outside);
        good.then_some(Self(ranges))
    }

    /// Of the text of `uid_map` or `gid_map`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let line = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(|number| number.parse::<u32>().ok());
            let range =
                Range { inside: numbers.next()??, outside: numbers.next()??, count: numbers.next()?? };
            numbers.next().is_none().then_some(range)
        };
        // More than that is no map, however long the text is.
        Self::new(text.lines().take(MOST + 1).map(line).collect::<Option<_>>()?)
    }

    /// Its ranges.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// What an id inside is outside.
    #[must_use]
    pub fn outside(&self, inside: u32) -> Option<u32> {
        let found =
            self.0.iter().find(|range| inside.checked_sub(range.inside).is_some_and(|n| n < range.count));
        found.map(|range| range.outside + (inside - range.inside))
    }

    /// What an id outside is inside.
    #[must_use]
    pub fn inside(&self, outside: u32) -> Option<u32> {
        let found =
            self.0.iter().find(|range| outside.checked_sub(range.outside).is_some_and(|n| n < range.count));
        found.map(|range| range.inside + (outside - range.outside))
    }

    /// The map the other way round.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let turned =
            |range: &Range| Range { inside: range.outside, outside: range.inside, count: range.count };
        Self(self.0.iter().map(turned).collect())
    }

    /// The highest of the ids from 0 on without a gap; `None` if 0 itself is not there.
    #[must_use]
    pub fn highest_without_gap(&self) -> Option<u32> {
        let mut sorted: Vec<(u32, u32)> = self.0.iter().map(|range| (range.inside, range.count)).collect();
        sorted.sort_unstable();
        let end = sorted.iter().fold(0, |end, (first, count)| if *first == end { end + count } else { end });
        end.checked_sub(1)
    }
}

/// As the kernel takes it.
impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|range| writeln!(f, "{} {} {}", range.inside, range.outside, range.count))
    }
}

/// The maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// Users.
    pub uids: Map,
    /// Groups.
    pub gids: Map,
}

/// What an id is shown as that a user namespace has no name for.
pub const NOBODY: u32 = 65534;

impl Ids {
    /// User and group outside that are root inside.
    #[must_use]
    pub fn root(&self) -> Option<(u32, u32)> {
        Some((self.uids.outside(0)?, self.gids.outside(0)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ranges: &[(u32, u32, u32)]) -> Option<Map> {
        Map::new(
            ranges
                .iter()
                .map(|(inside, outside, count)| Range { inside: *inside, outside: *outside, count: *count })
                .collect(),
        )
    }

    #[test]
    fn ids_go_in_and_out() {
        let map = map(&[(0, 100_000, 1000), (1000, 5000, 10), (2000, 200_000, 1)]).unwrap();
        for (inside, outside) in [(0, 100_000), (999, 100_999), (1000, 5000), (1009, 5009), (2000, 200_000)] {
            assert_eq!((map.outside(inside), map.inside(outside)), (Some(outside), Some(inside)));
        }
        for none in [1010, 2001, u32::MAX] {
            assert_eq!(map.outside(none), None);
        }
        for none in [0, 99_999, 101_000, u32::MAX] {
            assert_eq!(map.inside(none), None);
        }
        assert_eq!(map.highest_without_gap(), Some(1009));
        assert_eq!(Map::parse(&map.to_string()), Some(map));
    }

    #[test]
    fn what_is_not_one_to_one_is_no_map() {
        assert!(map(&[]).is_none());
        assert!(map(&[(0, 0, 0)]).is_none());
        assert!(map(&[(0, 100, 10), (5, 200, 10)]).is_none());
        assert!(map(&[(0, 100, 10), (10, 105, 10)]).is_none());
        assert!(map(&[(u32::MAX, 0, 2)]).is_none());
        assert!(map(&(0..341).map(|n| (n, n, 1)).collect::<Vec<_>>()).is_none());
        assert!(map(&[(5, 0, 1)]).unwrap().highest_without_gap().is_none());
        for bad in ["", "x", "0 0", "0 0 1 1", "0 -1 1", "0 0 4294967296", "0 0 1\n\n"] {
            assert_eq!(Map::parse(bad), None, "{bad:?}");
        }
    }
}
