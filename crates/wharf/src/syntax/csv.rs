//! One record of comma-separated values, in which `"…"` keeps a comma.

use super::Parsed;

/// The fields of a single record.
pub(crate) fn fields(text: &str) -> Parsed<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            loop {
                let end = quoted.find('"').ok_or_else(|| {
                    "parse error on line 1: extraneous or missing \" in quoted-field".to_owned()
                })?;
                field.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        quoted = more;
                    }
                    None => break,
                }
            }
            fields.push(field);
            match quoted.strip_prefix(',') {
                Some(more) => rest = more,
                None if quoted.is_empty() => return Ok(fields),
                None => return Err("parse error on line 1: extraneous or missing \" in quoted-field".into()),
            }
        } else {
            let (field, more) = match rest.split_once(',') {
                Some((field, more)) => (field, Some(more)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err("parse error on line 1: bare \" in non-quoted-field".into());
            }
            fields.push(field.to_owned());
            match more {
                Some(more) => rest = more,
                None => return Ok(fields),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn quotes_keep_commas() {
        assert_eq!(fields("a,b=c").unwrap(), ["a", "b=c"]);
        assert_eq!(fields("\"a,b\",\"c\"\"d\",").unwrap(), ["a,b", "c\"d", ""]);
        assert!(fields("a\"b").is_err());
        assert!(fields("\"ab").is_err());
        assert!(fields("\"ab\"c").is_err());
    }
}
