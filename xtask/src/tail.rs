//! The size check: beauty is lost in the tail, so the largest files are watched, not the average.
//!
//! Counts lines outside the closing `#[cfg(test)]` module. Long functions are clippy's (`too_many_lines`).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use wharf_testkit::workspace_root;

use crate::layers::{Long, Rules};

/// Lines of production code a file may have.
const LIMIT: usize = 800;
/// Nine files in ten stay below this.
const LIMIT_P90: usize = 500;
/// Lines a shell script may have.
const LIMIT_SHELL: usize = 50;

/// Checks every source file.
pub(crate) fn check() -> Result<()> {
    let mut files = Vec::new();
    for dir in ["crates", "xtask", "bench", ".ci"] {
        collect(&workspace_root().join(dir), &mut files)?;
    }
    let mut sizes = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let name = path.strip_prefix(workspace_root()).unwrap_or(&path).to_string_lossy().into_owned();
        sizes.push((production_lines(&text), name));
    }
    let problems = problems(&sizes, &Rules::read()?.long);
    ensure!(problems.is_empty(), "the tail has grown:\n  {}", problems.join("\n  "));
    sizes.sort();
    let largest = sizes.last().map(|(lines, name)| format!("{name} with {lines} lines")).unwrap_or_default();
    println!("tail: {} files, the largest is {largest}", sizes.len());
    Ok(())
}

fn problems(sizes: &[(usize, String)], excused: &[Long]) -> Vec<String> {
    let limit = |name: &str| if name.ends_with(".rs") { LIMIT } else { LIMIT_SHELL };
    let is_excused = |name: &str| excused.iter().any(|long| long.file == name);
    let too_long = |(lines, name): &&(usize, String)| *lines > limit(name);
    let mut found: Vec<String> = sizes
        .iter()
        .filter(too_long)
        .filter(|(_, name)| !is_excused(name))
        .map(|(lines, name)| {
            format!("{name} has {lines} lines, {} are the limit: what are its two halves?", limit(name))
        })
        .collect();
    let needed = |name: &str| sizes.iter().filter(too_long).any(|(_, long)| long == name);
    let unneeded = excused.iter().filter(|long| !needed(&long.file));
    found.extend(
        unneeded.map(|long| format!("{} ({}) no longer needs its exemption", long.file, long.reason)),
    );
    let big = sizes.iter().filter(|(lines, _)| *lines > LIMIT_P90).count();
    if big * 10 > sizes.len() {
        found.push(format!("{big} of {} files have more than {LIMIT_P90} lines", sizes.len()));
    }
    found
}

/// Lines before the test module that closes a file.
fn production_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).rposition(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    match tests {
        // `mod tests;` names another file; what follows it is still production code.
        Some(start) if lines[start + 1].ends_with('{') => start,
        _ => lines.len(),
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        let is_source = path.extension().is_some_and(|kind| kind == "rs" || kind == "sh")
            || path.ends_with(".ci/run")
            || path.ends_with("bench/run");
        if path.is_dir() {
            collect(&path, files)?;
        } else if is_source && !path.components().any(|part| part.as_os_str() == "tests") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_at_the_end_do_not_count() {
        assert_eq!(production_lines("a\nb\n#[cfg(test)]\nmod tests {\n x\n}\n"), 2);
        assert_eq!(production_lines("a\n#[cfg(test)]\nmod tests;\nb\n"), 4);
    }

    #[test]
    fn a_long_file_needs_an_excuse_and_an_excuse_a_long_file() {
        let sizes: Vec<(usize, String)> =
            (0..20).map(|n| (10, format!("{n}.rs"))).chain([(801, "long.rs".to_owned())]).collect();
        assert_eq!(problems(&sizes, &[]).len(), 1);
        let excuse = |file: &str| Long { file: file.to_owned(), reason: "why".to_owned() };
        assert_eq!(problems(&sizes, &[excuse("long.rs")]), Vec::<String>::new());
        assert_eq!(problems(&sizes, &[excuse("long.rs"), excuse("0.rs")]).len(), 1);
    }

    #[test]
    fn scripts_stay_short() {
        assert_eq!(problems(&[(51, "x.sh".to_owned())], &[]).len(), 1);
    }
}
