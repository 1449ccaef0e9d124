//! `-v [source:]target[:mode]`.

use super::{Parsed, mount};

/// What a `-v` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Volume {
    /// A volume without a name at this path.
    Anonymous(String),
    /// A host path or a named volume, as the API wants it.
    Bind(String),
}

/// Reads one `-v`. What the parts may be is the engine's business.
pub(crate) fn parse(text: &str) -> Parsed<Volume> {
    if text.is_empty() {
        return Err("invalid empty volume spec".into());
    }
    let Some((source, rest)) = text.split_once(':') else { return Ok(Volume::Anonymous(text.to_owned())) };
    if source.is_empty() || rest.split(':').any(str::is_empty) {
        return Err(format!("invalid spec: {text}: empty section between colons"));
    }
    if rest.matches(':').count() > 1 {
        return Err(format!("invalid spec: {text}: too many colons"));
    }
    Ok(Volume::Bind(format!("{}:{rest}", mount::absolute(source))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        assert_eq!(parse("/x"), Ok(Volume::Anonymous("/x".into())));
        assert_eq!(parse("a:/x:ro"), Ok(Volume::Bind("a:/x:ro".into())));
        assert_eq!(parse(""), Err("invalid empty volume spec".into()));
        assert_eq!(parse("/a:/x:ro:rw"), Err("invalid spec: /a:/x:ro:rw: too many colons".into()));
        assert_eq!(parse("/a:/x:ownership=auto"), Ok(Volume::Bind("/a:/x:ownership=auto".into())));
        assert_eq!(parse(":/x"), Err("invalid spec: :/x: empty section between colons".into()));
    }
}
