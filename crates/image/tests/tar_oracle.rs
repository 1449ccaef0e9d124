//! IM-04: on every stream our reader accepts, GNU tar and Python's tarfile see the same entries.
#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};
use support::{Header, Tar};
use wharf_image::tar::{Kind, Reader};

/// Name, type, size and content hash of each entry, one per line, as the Python below prints them.
fn ours(stream: &[u8]) -> Result<Vec<String>, String> {
    let mut reader = Reader::new(stream);
    let mut lines = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(|error| error.to_string())? {
        let (kind, size, link) = match &entry.kind {
            Kind::File { size, .. } => ('f', *size, Vec::new()),
            Kind::Directory => ('d', 0, Vec::new()),
            Kind::Symlink(target) => ('l', 0, target.clone()),
            Kind::HardLink(target) => ('h', 0, target.clone()),
            Kind::Fifo => ('p', 0, Vec::new()),
            Kind::Character { .. } => ('c', 0, Vec::new()),
            Kind::Block { .. } => ('b', 0, Vec::new()),
        };
        let mut hasher = Sha256::new();
        if let Kind::File { pieces, .. } = &entry.kind {
            let mut stored = Vec::new();
            loop {
                let chunk = reader.chunk().map_err(|error| error.to_string())?;
                if chunk.is_empty() {
                    break;
                }
                stored.extend_from_slice(chunk);
                let taken = chunk.len();
                reader.advance(taken);
            }
            let whole = match pieces {
                None => stored,
                Some(pieces) => {
                    let mut whole = vec![0; usize::try_from(size).unwrap()];
                    let mut rest = &stored[..];
                    for (offset, length) in pieces {
                        let (offset, length) =
                            (usize::try_from(*offset).unwrap(), usize::try_from(*length).unwrap());
                        whole[offset..offset + length].copy_from_slice(&rest[..length]);
                        rest = &rest[length..];
                    }
                    whole
                }
            };
            hasher.update(&whole);
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut name = entry.path.clone();
        while name.len() > 1 && name.last() == Some(&b'/') {
            name.pop();
        }
        let hash = if kind == 'f' { hex(&hasher.finalize()) } else { String::new() };
        lines.push(format!("{} {kind} {size} {} {hash}", hex(&name), hex(&link)));
    }
    Ok(lines)
}

const PYTHON: &str = r#"
import sys, tarfile, hashlib, os
for number in range(int(sys.argv[2])):
    try:
        lines = []
        with tarfile.open(f"{sys.argv[1]}/{number}", "r:", encoding="utf-8", errors="surrogateescape") as t:
            for m in t:
                e = lambda s: s.encode("utf-8", "surrogateescape").hex()
                kind = "f" if m.isreg() else "d" if m.isdir() else "l" if m.issym() else "h" if m.islnk() else "p" if m.isfifo() else "c" if m.ischr() else "b" if m.isblk() else "?"
                data = t.extractfile(m).read() if kind == "f" else b""
                name = m.name.rstrip("/") or m.name[:1]
                lines.append(f"{e(name)} {kind} {m.size if kind == 'f' else 0} {e(m.linkname) if kind in 'lh' else ''} {hashlib.sha256(data).hexdigest() if kind == 'f' else ''}")
        out = "ok\n" + "".join(line + "\n" for line in lines)
    except Exception as error:
        out = f"error {error}\n"
    with open(f"{sys.argv[1]}/{number}.out", "w") as f:
        f.write(out)
"#;

/// The names GNU tar lists, or its complaint.
fn gnu(stream: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut child = Command::new("tar")
        .args(["-t", "-P", "--quoting-style=escape", "-f", "-"])
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // GNU tar stops reading at the end mark; the pipe may break.
    let _ = stdin.write_all(stream);
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(unescape).collect())
}

fn unescape(line: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    let mut rest = line;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            name.push(*first);
            continue;
        }
        if tail.len() >= 3 && tail[..3].iter().all(|digit| (b'0'..=b'7').contains(digit)) {
            name.push(tail[..3].iter().fold(0_u8, |sum, digit| sum.wrapping_mul(8) + (digit - b'0')));
            rest = &tail[3..];
        } else if let [letter, tail @ ..] = tail {
            name.push(match letter {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'a' => 7,
                b'b' => 8,
                b'v' => 11,
                b'f' => 12,
                other => *other,
            });
            rest = tail;
        }
    }
    while name.len() > 1 && name.last() == Some(&b'/') {
        name.pop();
    }
    name
}

/// Compares; returns how many streams we accepted.
fn compare(streams: &[Vec<u8>], what: &str) -> usize {
    let dir = tempfile::tempdir().unwrap();
    for (number, stream) in streams.iter().enumerate() {
        std::fs::write(dir.path().join(number.to_string()), stream).unwrap();
    }
    let script = dir.path().join("read.py");
    std::fs::write(&script, PYTHON).unwrap();
    let count = streams.len().to_string();
    let arguments = [script.as_path(), dir.path(), Path::new(&count)].map(Path::as_os_str);
    assert!(Command::new("python3").args(arguments).status().unwrap().success());
    let mut accepted = 0;
    for (number, stream) in streams.iter().enumerate() {
        let Ok(seen) = ours(stream) else { continue };
        accepted += 1;
        let python = std::fs::read_to_string(dir.path().join(format!("{number}.out"))).unwrap();
        // Python calls a stream without any entry an error.
        if !(seen.is_empty() && python.starts_with("error")) {
            let expected: String = std::iter::once("ok".to_owned())
                .chain(seen.iter().cloned())
                .map(|line| line + "\n")
                .collect();
            assert_eq!(expected, python, "{what} {number}: Python sees other entries");
        }
        let names: Vec<Vec<u8>> = seen.iter().map(|line| from_hex(line.split(' ').next().unwrap())).collect();
        match gnu(stream) {
            Ok(listed) => assert_eq!(names, listed, "{what} {number}: GNU tar sees other entries"),
            Err(error) => panic!("{what} {number}: GNU tar refuses what we accept: {error}"),
        }
    }
    accepted
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A header hidden in the data of a file: whoever loses step sees it as an entry.
fn smuggled() -> Vec<u8> {
    Tar::new().file("smuggled", b"evil").finish()
}

/// Streams built to be read in two ways.
#[expect(clippy::too_many_lines, reason = "a list of shapes")]
fn ambiguous() -> Vec<(&'static str, Vec<u8>)> {
    let inner = smuggled();
    let size = inner.len().to_string();
    let base = || Tar::new().file("first", b"1");
    let end = |tar: Tar| tar.file("last", b"2").finish();
    let inner_file = |header: Header| Tar::new().header(&header).data(&inner).0;
    let sized = |name: &str, typeflag: u8| Header::new(name, typeflag).size(inner.len() as u64);
    let mut streams = Vec::new();
    let mut add = |name, tar: Tar| streams.push((name, end(tar)));
    add(
        "size in pax, 0 in header",
        base().pax(&[("size", size.as_bytes())]).raw(&inner_file(Header::new("f", b'0'))),
    );
    add("size in header, 0 in pax", base().pax(&[("size", b"0")]).raw(&inner_file(sized("f", b'0'))));
    add(
        "two pax headers",
        base()
            .pax(&[("size", size.as_bytes())])
            .pax(&[("path", b"g")])
            .raw(&inner_file(Header::new("f", b'0'))),
    );
    add(
        "pax, then long name",
        base().pax(&[("size", size.as_bytes())]).long(b'L', b"g").raw(&inner_file(Header::new("f", b'0'))),
    );
    add(
        "long name, then pax",
        base().long(b'L', b"g").pax(&[("size", size.as_bytes())]).raw(&inner_file(Header::new("f", b'0'))),
    );
    add("two long names", base().long(b'L', b"g").long(b'L', b"h").file("f", b"x"));
    add(
        "global size",
        base().pax_of_type(b'g', &[("size", size.as_bytes())]).raw(&inner_file(Header::new("f", b'0'))),
    );
    add("global path", base().pax_of_type(b'g', &[("path", b"g")]).file("f", b"x"));
    add("global comment", base().pax_of_type(b'g', &[("comment", b"commit")]).file("f", b"x"));
    for (name, typeflag) in [
        ("sized directory", b'5'),
        ("sized symlink", b'2'),
        ("sized fifo", b'6'),
        ("sized device", b'3'),
        ("sized hard link", b'1'),
    ] {
        add(name, base().raw(&inner_file(Header { link: b"first".to_vec(), ..sized("x", typeflag) })));
        add(name, base().header(&Header { link: b"first".to_vec(), ..sized("x", typeflag) }));
        add(
            name,
            base()
                .pax(&[("size", size.as_bytes())])
                .raw(&inner_file(Header::new("x", typeflag).link("first"))),
        );
    }
    add("file with a slash", base().raw(&inner_file(sized("f/", b'0'))));
    add("old file with a slash", base().raw(&inner_file(sized("f/", 0))));
    add("empty old file with a slash", base().header(&Header::new("f/", 0)));
    add("contiguous file", base().raw(&inner_file(sized("f", b'7'))));
    for typeflag in [b'A', b'D', b'M', b'N', b'V', b'X', b'S', b'z', 1, 200] {
        add("unknown type", base().raw(&inner_file(sized("x", typeflag))));
    }
    add("lone zero block", base().raw(&[0; 512]).file("hidden", b"x"));
    add(
        "prefix without ustar",
        base().header(&Header { magic: vec![0; 8], prefix: b"p".to_vec(), ..Header::new("f", b'0') }),
    );
    add(
        "prefix with gnu magic",
        base().header(&Header {
            magic: b"ustar  \0".to_vec(),
            prefix: b"p".to_vec(),
            ..Header::new("f", b'0')
        }),
    );
    add("prefix", base().header(&Header { prefix: b"p".to_vec(), ..Header::new("f", b'0') }));
    add(
        "odd magic",
        base().header(&Header {
            magic: b"ustar\x0001".to_vec(),
            prefix: b"p".to_vec(),
            ..Header::new("f", b'0')
        }),
    );
    add(
        "star's prefix",
        base().header(&Header { prefix: vec![b'p'; 140], ..Header::new("f", b'0') }.patch(508, b"tar\0")),
    );
    add(
        "binary size",
        base().raw(&inner_file(Header {
            size: {
                let mut size = vec![0x80, 0, 0, 0];
                size.extend_from_slice(&(inner.len() as u64).to_be_bytes());
                size
            },
            ..Header::new("f", b'0')
        })),
    );
    add("negative size", base().header(&Header { size: vec![0xff; 12], ..Header::new("f", b'0') }));
    for field in [
        &b"0000000004x\0"[..],
        b"-0000000004\0",
        b"4           ",
        b"           4",
        b"    4 4\0    ",
        b"0x000000004\0",
        b"4\0 5        ",
        b"999999999999",
        b"+0000000004\0",
    ] {
        add(
            "odd size field",
            base().header(&Header { size: field.to_vec(), ..Header::new("f", b'0') }).data(b"xxxx"),
        );
    }
    add("bad checksum", base().header(&Header { bad_checksum: true, ..Header::new("f", b'0') }));
    add(
        "long name with tail",
        base()
            .header(&Header { magic: b"ustar  \0".to_vec(), ..Header::new("././@LongLink", b'L').size(6) })
            .data(b"ab\0cd\0")
            .file("f", b"x"),
    );
    add(
        "long name without NUL",
        base()
            .header(&Header { magic: b"ustar  \0".to_vec(), ..Header::new("././@LongLink", b'L').size(4) })
            .data(b"abcd")
            .file("f", b"x"),
    );
    add("empty long name", base().header(&Header::new("././@LongLink", b'L')).file("f", b"x"));
    add("huge long name", base().header(&Header::new("././@LongLink", b'L').size(1 << 40)).file("f", b"x"));
    add("pax with NUL in path", base().pax(&[("path", b"a\0b")]).file("f", b"x"));
    add("pax with empty path", base().pax(&[("path", b"")]).file("f", b"x"));
    add("repeated pax key", base().pax(&[("path", b"a"), ("path", b"b")]).file("f", b"x"));
    for data in [
        &b"6 a=b\n garbage"[..],
        b"5 a=b\n",
        b"7 a=b\n",
        b"a=b\n",
        b"0 a=b\n",
        b"006 a=b\n",
        b"6\ta=b\n",
        b"4294967302 a=b\n",
    ] {
        add(
            "malformed pax",
            base().header(&Header::new("x", b'x').size(data.len() as u64)).data(data).file("f", b"x"),
        );
    }
    for map in [&b"0,4"[..], b"4,4,0,4", b"0,9999999", b"0,2,1,2", b"0", b"-1,4", b"", b"10,4"] {
        add(
            "sparse map",
            base()
                .pax(&[
                    ("GNU.sparse.size", b"20"),
                    ("GNU.sparse.numblocks", b"1"),
                    ("GNU.sparse.map", map),
                    ("GNU.sparse.name", b"s"),
                ])
                .file("f", b"abcd"),
        );
    }
    let map_in_data = |map: &[u8]| {
        let mut data = map.to_vec();
        data.resize(512, 0);
        data.extend_from_slice(b"abcd");
        data
    };
    for map in [
        &b"1\n0\n4\n"[..],
        b"1\n10\n4\n",
        b"2\n0\n2\n8\n2\n",
        b"9\n0\n4\n",
        b"1\n0\n5\n",
        b"x\n0\n4\n",
        b"-1\n",
        b"1\n0\n4\n7\n",
        b"0\n",
    ] {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.realsize", b"20"),
        ];
        add("sparse map in data", base().pax(records).file("f", &map_in_data(map)));
    }
    streams
}

#[test]
fn im_04_ambiguous_headers_are_refused_or_read_as_others_do() {
    let streams = ambiguous();
    let refused: Vec<&str> =
        streams.iter().filter(|(_, stream)| ours(stream).is_err()).map(|(name, _)| *name).collect();
    for name in [
        "two pax headers",
        "pax, then long name",
        "global size",
        "sized directory",
        "lone zero block",
        "unknown type",
        "prefix with gnu magic",
        "huge long name",
    ] {
        assert!(refused.contains(&name), "{name} was accepted");
    }
    let bytes: Vec<Vec<u8>> = streams.into_iter().map(|(_, stream)| stream).collect();
    let accepted = compare(&bytes, "ambiguous stream");
    assert!(accepted >= 10, "only {accepted} were accepted: the test compares nothing");
}

/// A small generator of numbers; each seed gives the same ones.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

/// A stream of mixed formats, then damaged in a few places in ways that keep checksums right.
fn mixed(seed: u64) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let mut tar = Tar::new();
    let inner = smuggled();
    for number in 0..numbers.next(5) + 1 {
        let name = format!("entry-{number}");
        match numbers.next(5) {
            0 => tar = tar.long(b'L', format!("{}{number}", "long/".repeat(30)).as_bytes()),
            1 => tar = tar.pax(&[("path", format!("pax-{number}").as_bytes()), ("mtime", b"1.5")]),
            2 => tar = tar.pax(&[("size", inner.len().to_string().as_bytes())]),
            _ => {}
        }
        let typeflag = [b'0', 0, b'0', b'5', b'2', b'1', b'7', b'x', b'g', b'L', b'3'][numbers.next(11)];
        let mut header = Header::new(&name, typeflag).link("entry-0");
        let data: &[u8] = [&b""[..], b"data", &inner][numbers.next(3)];
        header = header.size(if numbers.next(6) == 0 { 7 } else { data.len() as u64 });
        match numbers.next(12) {
            0 => header.magic = b"ustar  \0".to_vec(),
            1 => header.magic = vec![0; 8],
            2 => header.prefix = b"prefix".to_vec(),
            3 => header.name.push(b'/'),
            4 => header.size = vec![0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0],
            5 => {
                let at = numbers.next(500);
                let byte = u8::try_from(numbers.next(256)).unwrap();
                header = header.patch(at, &[byte]);
            }
            _ => {}
        }
        tar = tar.header(&header).data(data);
        if numbers.next(20) == 0 {
            tar = tar.raw(&[0; 512]);
        }
    }
    tar.finish()
}

#[test]
fn im_04_mixed_formats_are_read_as_gnu_tar_and_python_read_them() {
    let streams: Vec<Vec<u8>> = (0..600).map(mixed).collect();
    let accepted = compare(&streams, "mixed stream");
    assert!(accepted >= 60, "only {accepted} were accepted");
}
