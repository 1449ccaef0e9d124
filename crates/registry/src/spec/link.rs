//! The `Link` header of lists: `</v2/a/tags/list?n=2&last=b>; rel="next"`.

const MAX_LINK: usize = 8 << 10;

/// The target with `rel="next"`, as it stands in the header: resolving it, and refusing another origin, is the
/// caller's business.
#[must_use]
pub fn next_page(header: &str) -> Option<&str> {
    if header.len() > MAX_LINK {
        return None;
    }
    let mut rest = header;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let end = end_of_parameters(after);
        if !target.is_empty() && after[..end].split(';').any(is_next) {
            return Some(target);
        }
        rest = &after[end..];
    }
}

/// The header for the next page.
#[must_use]
pub fn print_next(target: &str) -> String {
    format!("<{target}>; rel=\"next\"")
}

/// Where the parameters of one link end: at a comma outside quotes.
fn end_of_parameters(text: &str) -> usize {
    let mut quoted = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    let value = value.trim().trim_matches('"');
    name.trim().eq_ignore_ascii_case("rel")
        && value.split_ascii_whitespace().any(|rel| rel.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        for (header, next) in [
            ("</v2/a/tags/list?n=2&last=b>; rel=\"next\"", Some("/v2/a/tags/list?n=2&last=b")),
            ("<x>;rel=next", Some("x")),
            ("<p>; rel=\"prev\", <n>; title=\"a, b\"; REL=\"last Next\"", Some("n")),
            ("<p>; rel=\"prev\"", None),
            ("<>; rel=\"next\"", None),
            ("<unclosed; rel=\"next\"", None),
            ("rel=\"next\"", None),
            ("", None),
        ] {
            assert_eq!(next_page(header), next, "{header}");
        }
        assert_eq!(next_page(&print_next("/v2/x?n=1")), Some("/v2/x?n=1"));
        assert_eq!(next_page(&print_next(&"a".repeat(MAX_LINK))), None);
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_panic(header in "\\PC{0,200}|[<>;,=\"a-z ]{0,100}") {
            let _ = next_page(&header);
        }
    }
}
