//! `--ulimit name=soft[:hard]`.

use wharf_api::models::ResourcesUlimits;
use wharf_model::ulimit;

use super::Parsed;

/// Reads one limit; `-1` is no limit.
pub(crate) fn parse(text: &str) -> Parsed<ResourcesUlimits> {
    let limit = ulimit::parse(text)?;
    Ok(ResourcesUlimits { name: Some(limit.name), soft: Some(limit.soft), hard: Some(limit.hard) })
}
