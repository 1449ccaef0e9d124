//! Names for containers whose maker gave none.

use crate::Result;

const ADJECTIVES: &[&str] = &[
    "able", "amber", "ample", "azure", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid",
    "clever", "coral", "crisp", "daring", "deft", "eager", "early", "easy", "fair", "fleet", "fresh",
    "gentle", "glad", "golden", "grand", "hardy", "honest", "jolly", "keen", "kind", "light", "lively",
    "lucid", "lucky", "mellow", "merry", "mild", "misty", "modest", "neat", "nimble", "noble", "pearly",
    "plucky", "polar", "proud", "quick", "quiet", "rapid", "ready", "royal", "sandy", "serene", "sharp",
    "silver", "smart", "solid", "steady", "stout", "sunny", "swift", "tidal", "tidy", "trusty", "vivid",
    "warm", "wise",
];

const NOUNS: &[&str] = &[
    "albatross",
    "anchor",
    "anchovy",
    "barge",
    "bay",
    "beacon",
    "berth",
    "bollard",
    "bosun",
    "breeze",
    "buoy",
    "canal",
    "capstan",
    "cargo",
    "clipper",
    "cod",
    "compass",
    "coot",
    "cove",
    "crane",
    "current",
    "cutter",
    "derrick",
    "dinghy",
    "dock",
    "dolphin",
    "dory",
    "egret",
    "estuary",
    "ferry",
    "fjord",
    "galley",
    "gannet",
    "gull",
    "halyard",
    "harbour",
    "heron",
    "herring",
    "hull",
    "isle",
    "jetty",
    "kelp",
    "ketch",
    "keel",
    "lagoon",
    "lantern",
    "lighter",
    "lock",
    "mackerel",
    "mast",
    "mole",
    "mooring",
    "oar",
    "otter",
    "packet",
    "pelican",
    "pier",
    "pilot",
    "piper",
    "plover",
    "quay",
    "reef",
    "rudder",
    "sail",
    "schooner",
    "seal",
    "skiff",
    "sloop",
    "sound",
    "spar",
    "strait",
    "tern",
    "tide",
    "trawler",
    "tug",
    "turnstone",
    "wave",
    "whaler",
    "winch",
    "yawl",
];

/// A random name; `attempt` beyond a few adds a digit so that it ends.
pub(super) fn random(attempt: u32) -> Result<String> {
    let bytes = super::random_id()?;
    let pick = |list: &[&'static str], at: usize| {
        list[usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])) % list.len()]
    };
    let mut name = format!("{}_{}", pick(ADJECTIVES, 0), pick(NOUNS, 2));
    if attempt >= 6 {
        name.push_str(&u32::from_le_bytes([bytes[4], bytes[5], bytes[6], 0]).to_string());
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_valid() {
        for attempt in 0..20 {
            let name = super::random(attempt).unwrap();
            assert!(wharf_model::user_paths::is_name(&name), "{name}");
        }
    }
}
