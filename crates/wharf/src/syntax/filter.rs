//! `--filter key=value`.

use std::collections::BTreeMap;

use super::Parsed;

/// One filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Reads `key=value`.
pub(crate) fn parse(text: &str) -> Parsed<Filter> {
    let (key, value) = text.split_once('=').ok_or("bad format of filter (expected name=value)")?;
    Ok(Filter { key: key.trim().to_lowercase(), value: value.trim().to_owned() })
}

/// The filters as the API wants them in a query: `{"key":{"value":true}}`; nothing if there are none.
pub(crate) fn to_query(filters: &[Filter]) -> String {
    if filters.is_empty() {
        return String::new();
    }
    let mut all: BTreeMap<&str, BTreeMap<&str, bool>> = BTreeMap::new();
    for filter in filters {
        all.entry(&filter.key).or_default().insert(&filter.value, true);
    }
    // Maps of strings always have a JSON form.
    serde_json::to_string(&all).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_gathered_by_key() {
        let filters: Vec<Filter> =
            ["label=a=b", "Label = c", "status=exited"].map(|text| parse(text).unwrap()).into();
        assert_eq!(to_query(&filters), r#"{"label":{"a=b":true,"c":true},"status":{"exited":true}}"#);
        assert_eq!(to_query(&[]), "");
        assert!(parse("x").is_err());
    }
}
