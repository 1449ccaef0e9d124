//! Which child of an index is meant.

use wharf_content::spec::{Descriptor, Platform};

use crate::import::{host_architecture, parse_platform};
use crate::{Error, Result};

/// A platform in the one spelling that indexes use.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    os: String,
    architecture: String,
    variant: String,
    /// The user named it, rather than that it is the host's.
    pub(crate) explicit: bool,
}

impl Wanted {
    /// `os[/architecture[/variant]]` as a user types it, or the host's.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        let explicit = text.is_some_and(|text| !text.is_empty());
        let (os, architecture, variant) = match text.filter(|text| !text.is_empty()) {
            // An architecture alone is what people type.
            Some(text) if !text.contains('/') && text != "linux" && is_architecture(text) => {
                ("linux".to_owned(), text.to_owned(), String::new())
            }
            Some(text) => {
                let platform = parse_platform(Some(text))?;
                (platform.os, platform.architecture, platform.variant)
            }
            None => ("linux".to_owned(), host_architecture().to_owned(), String::new()),
        };
        let (architecture, variant) = normalised(&architecture, &variant);
        Ok(Self { os, architecture, variant, explicit })
    }

    /// Whether an image of this platform is what was asked for.
    pub(crate) fn is(&self, os: &str, architecture: &str, variant: &str) -> bool {
        let (architecture, variant) = normalised(architecture, variant);
        // A config seldom states its variant.
        self.os == os
            && self.architecture == architecture
            && (self.variant == variant || variant.is_empty() || self.variant.is_empty())
    }

    /// The best of an index's images: the same variant, or the highest that this one can run.
    pub(crate) fn choose<'a>(&self, images: &[&'a Descriptor]) -> Option<&'a Descriptor> {
        let of_platform = |platform: &Platform, wanted: &str| {
            let (architecture, variant) =
                normalised(&platform.architecture, platform.variant.as_deref().unwrap_or_default());
            platform.os == self.os && architecture == self.architecture && variant == wanted
        };
        self.runnable().into_iter().find_map(|variant| {
            images
                .iter()
                .find(|image| image.platform.as_ref().is_some_and(|platform| of_platform(platform, &variant)))
                .copied()
        })
    }

    /// The variants that run here, best first.
    fn runnable(&self) -> Vec<String> {
        let number = self.variant.strip_prefix('v').and_then(|text| text.parse::<u32>().ok());
        let mut variants = vec![self.variant.clone()];
        match (self.architecture.as_str(), number) {
            ("arm", Some(number)) => variants.extend((5..number).rev().map(|number| format!("v{number}"))),
            ("amd64", Some(number)) => {
                variants.extend((2..number).rev().map(|number| format!("v{number}")));
                variants.push(String::new());
            }
            _ => {}
        }
        variants
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_str() {
            "" if self.architecture == "arm64" => f.write_str("/v8"),
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}

fn is_architecture(text: &str) -> bool {
    const KNOWN: &[&str] = &[
        "386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "aarch64",
        "armhf", "armel", "i386", "x86_64", "x86-64",
    ];
    KNOWN.contains(&text)
}

/// The spelling of indexes: Go's names, and no variant where it is the common one.
fn normalised(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

/// Docker's words for an index without the platform.
pub(crate) fn no_match(wanted: &Wanted) -> Error {
    Error::NoPlatform(wanted.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(os: &str, architecture: &str, variant: Option<&str>) -> Descriptor {
        let mut descriptor = Descriptor::new("m", wharf_content::digest_of(architecture.as_bytes()), 1);
        descriptor.platform = Some(Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        });
        descriptor
    }

    fn chosen(wanted: &str, images: &[Descriptor]) -> Option<Option<String>> {
        let images: Vec<&Descriptor> = images.iter().collect();
        let found = Wanted::parse(Some(wanted)).unwrap().choose(&images)?.platform.clone().unwrap();
        Some(found.variant)
    }

    #[test]
    fn the_best_runnable_variant_is_chosen() {
        let arm = [image("linux", "arm", Some("v5")), image("linux", "arm", Some("v6"))];
        assert_eq!(chosen("linux/arm/v7", &arm), Some(Some("v6".to_owned())));
        assert_eq!(chosen("arm", &arm), Some(Some("v6".to_owned())));
        assert_eq!(chosen("linux/arm/v5", &arm), Some(Some("v5".to_owned())));
        let arm64 = [image("linux", "arm64", Some("v8"))];
        assert_eq!(chosen("linux/arm64", &arm64), Some(Some("v8".to_owned())));
        assert_eq!(chosen("linux/aarch64", &arm64), Some(Some("v8".to_owned())));
        let amd64 = [image("windows", "amd64", None), image("linux", "amd64", None)];
        assert_eq!(chosen("linux/amd64/v3", &amd64), Some(None));
        assert_eq!(chosen("linux/s390x", &amd64), None);
    }

    #[test]
    fn platforms_are_written_as_docker_writes_them() {
        let text = |text: &str| Wanted::parse(Some(text)).unwrap().to_string();
        assert_eq!(text("linux/arm64"), "linux/arm64/v8");
        assert_eq!(text("linux/x86_64"), "linux/amd64");
        assert_eq!(text("linux/arm"), "linux/arm/v7");
    }
}
