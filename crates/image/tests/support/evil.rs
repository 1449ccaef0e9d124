//! EVILTAR: the shapes of hostile layers, for each way a layer comes in.

use std::io::Write;

use super::{Header, Tar, gzip};

/// Streams that try to create, change or read something outside the root, in many orders.
pub fn traversals(canary: &str) -> Vec<(String, Tar)> {
    let t = Tar::new;
    // From `snapshots/<n>/fs` up to the directory that holds the canary.
    let up = "../../../../canary";
    let mut shapes = Vec::new();
    let mut add = |name: &str, tar: Tar| shapes.push((name.to_owned(), tar));
    for (kind, out) in [("relative", up.to_owned()), ("absolute", canary.to_owned())] {
        let o = |rest: &str| format!("{out}{rest}");
        let name = |text: &str| format!("{text} ({kind})");
        add(&name("a file by name"), t().file(&o("/new"), b"x"));
        add(&name("a file over an existing one"), t().file(&o("/secret"), b"x"));
        add(&name("a directory by name"), t().dir(&o("/newdir")));
        add(
            &name("a directory that exists"),
            t().header(&Header::new(&o("/dir"), b'5').mode(0o777).owner(7, 7)),
        );
        add(&name("a link by name"), t().symlink(&o("/newlink"), "x"));
        add(&name("a file behind dots"), t().dir("a").file(&format!("a/./../{out}/new"), b"x"));
        add(&name("a whiteout by name"), t().file(&o("/.wh.secret"), b""));
        add(&name("an opaque mark by name"), t().file(&o("/dir/.wh..wh..opq"), b""));
        add(&name("link then child"), t().symlink("l", &out).file("l/new", b"x"));
        add(&name("link then existing child"), t().symlink("l", &out).file("l/secret", b"x"));
        add(&name("link then grandchild"), t().symlink("l", &out).file("l/dir/new", b"x"));
        add(&name("link then deep child"), t().symlink("l", &out).file("l/a/b/c/new", b"x"));
        add(
            &name("link then directory of its name"),
            t().symlink("l", &out).header(&Header::new("l", b'5').mode(0o777).owner(7, 7)),
        );
        add(
            &name("link then directory with slash"),
            t().symlink("l", &out).header(&Header::new("l/", b'5').mode(0o777).owner(7, 7)),
        );
        add(
            &name("link then directory in it"),
            t().symlink("l", &out).header(&Header::new("l/dir", b'5').mode(0o777)),
        );
        add(&name("link then file of its name"), t().symlink("l", &o("/secret")).file("l", b"x"));
        add(&name("link to a link"), t().symlink("a", &out).symlink("b", "a").file("b/new", b"x"));
        add(
            &name("chain of links"),
            t().symlink("a", "b").symlink("b", "c").symlink("c", &out).file("a/new", b"x"),
        );
        add(
            &name("link in a directory"),
            t().dir("d").symlink("d/l", &format!("../{out}")).file("d/l/new", b"x"),
        );
        add(
            &name("directory replaced by link"),
            t().dir("d").file("d/f", b"x").symlink("d", &out).file("d/new", b"x"),
        );
        add(
            &name("directory replaced by link, metadata"),
            t().header(&Header::new("d", b'5').mode(0o777)).symlink("d", &o("/dir")),
        );
        add(
            &name("directory, link, directory"),
            t().dir("d").symlink("d", &out).header(&Header::new("d", b'5').mode(0o777)).file("d/new", b"x"),
        );
        add(&name("link out, whiteout in it"), t().symlink("l", &out).file("l/.wh.secret", b""));
        add(&name("link out, opaque in it"), t().symlink("l", &o("/dir")).file("l/.wh..wh..opq", b""));
        add(&name("whiteout of a link"), t().symlink("l", &out).file(".wh.l", b""));
        add(&name("hard link to outside"), t().hardlink("h", &o("/secret")));
        add(&name("hard link to outside, then file"), t().hardlink("h", &o("/secret")).file("h", b"x"));
        add(&name("hard link through a link"), t().symlink("l", &out).hardlink("h", "l/secret"));
        add(&name("hard link to a link"), t().symlink("l", &o("/secret")).hardlink("h", "l").file("h", b"x"));
        add(
            &name("hard link to a link, metadata"),
            t().symlink("l", &o("/secret")).header(&Header::new("h", b'1').link("l").mode(0o777).owner(7, 7)),
        );
        add(&name("hard link in a link"), t().file("f", b"x").symlink("l", &out).hardlink("l/new", "f"));
        add(&name("device in a link"), t().symlink("l", &out).header(&Header::new("l/new", b'3')));
        add(&name("fifo in a link"), t().symlink("l", &out).header(&Header::new("l/new", b'6')));
        add(&name("link in a link"), t().symlink("l", &out).symlink("l/new", "x"));
        add(&name("long name"), t().long(b'L', o("/new").as_bytes()).file("x", b"x"));
        add(&name("long link"), t().long(b'K', out.as_bytes()).symlink("l", "x").file("l/new", b"x"));
        add(&name("pax name"), t().pax(&[("path", o("/new").as_bytes())]).file("x", b"x"));
        add(
            &name("pax link"),
            t().pax(&[("linkpath", out.as_bytes())]).symlink("l", "x").file("l/new", b"x"),
        );
        add(
            &name("ustar prefix"),
            t().header(&Header { prefix: out.clone().into_bytes(), ..Header::new("new", b'0') }),
        );
        add(
            &name("sparse name"),
            t().pax(&[
                ("GNU.sparse.map", b"0,1"),
                ("GNU.sparse.size", b"1"),
                ("GNU.sparse.name", o("/new").as_bytes()),
            ])
            .file("x", b"x"),
        );
        add(
            &name("set-uid through a link"),
            t().symlink("l", &o("/secret")).header(&Header::new("l", b'0').mode(0o6777)),
        );
        add(&name("root as a link"), t().symlink("./", &out).file("new", b"x"));
    }
    shapes
}

/// Entries for the root itself, also in the second of two layers (IM-02).
pub fn roots() -> Vec<(String, Tar)> {
    let mut shapes = Vec::new();
    for name in [".", "/", "./", "//", "./."] {
        for typeflag in [b'0', b'1', b'2', b'3', b'5', b'6'] {
            let header = Header::new(name, typeflag).link("/tmp").mode(0o700).owner(5, 6);
            let tar = Tar::new().header(&header).file("f", b"x");
            shapes.push((format!("{name:?} of type {:?}", char::from(typeflag)), tar));
        }
    }
    shapes.push(("an empty name".to_owned(), Tar::new().header(&Header::new("", b'5'))));
    shapes
}

/// One name twice, with metadata that must not go through the first (IM-03).
pub fn metadata(canary: &str) -> Vec<(String, Tar)> {
    let capability: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let records: &[(&str, &[u8])] =
        &[("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.user.x", b"y")];
    let mut shapes = Vec::new();
    for target in [canary.to_owned(), format!("{canary}/dir"), format!("{canary}/secret")] {
        for (first, second) in
            [(b'2', b'5'), (b'2', b'0'), (b'2', b'2'), (b'2', b'6'), (b'5', b'2'), (b'5', b'0')]
        {
            let header = |typeflag: u8| Header::new("x", typeflag).link(&target).mode(0o6777).owner(7, 7);
            let tar = Tar::new().pax(records).header(&header(first)).pax(records).header(&header(second));
            shapes.push((format!("{:?} then {:?}", char::from(first), char::from(second)), tar));
        }
    }
    shapes
}

/// Deletion marks that want more than their directory (IM-06).
pub fn whiteouts() -> Vec<(String, Tar)> {
    let bad = [
        ".wh.",
        ".wh..",
        ".wh...",
        ".wh./x",
        "a/.wh..wh.x",
        ".wh.a/b",
        "a/.wh../../x",
        "l/.wh..wh..opq",
        "l/.wh.x",
    ];
    let with_link = |name: &str| Tar::new().symlink("l", "../..").file(name, b"");
    bad.into_iter().map(|name| (format!("whiteout {name:?}"), with_link(name))).collect()
}

/// Attributes that steer overlayfs (IM-07), on a file and a directory.
pub fn overlay_attributes() -> Tar {
    let names =
        ["redirect", "opaque", "metacopy", "origin", "impure", "upper", "whiteouts", "overlay.opaque"];
    let mut records: Vec<(String, &[u8])> = Vec::new();
    for name in names {
        records.push((format!("SCHILY.xattr.trusted.overlay.{name}"), b"y"));
        records.push((format!("SCHILY.xattr.user.overlay.{name}"), b"y"));
    }
    records.push(("SCHILY.xattr.security.selinux".to_owned(), b"evil_t"));
    records.push(("SCHILY.xattr.user.kept".to_owned(), b"yes"));
    let records: Vec<(&str, &[u8])> = records.iter().map(|(key, value)| (&**key, *value)).collect();
    Tar::new().pax(&records).dir("d").pax(&records).file("d/f", b"x")
}

/// A sparse file that claims a pebibyte.
pub fn pebibyte() -> Vec<u8> {
    let pax: &[(&str, &[u8])] =
        &[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"1125899906842624"), ("GNU.sparse.name", b"s")];
    Tar::new().pax(pax).file("x", b"x").finish()
}

/// Thousands of empty frames before the stream, which some decoders are slow on.
pub fn empty_frames(tar: &[u8]) -> Vec<u8> {
    let mut empty = [0x28, 0xb5, 0x2f, 0xfd, 0, 0x50, 1, 0, 0].repeat(1000);
    empty.extend_from_slice(&zstd_frame(tar, 20));
    empty
}

/// A few entries that imply directories within directories: much to remember for little.
pub fn deep(entries: usize) -> Vec<u8> {
    let mut tar = Tar::new();
    for number in 0..entries {
        let mut path = format!("{number:05}/");
        path.push_str(&"d/".repeat(1990));
        tar = tar.pax(&[("path", format!("{path}f").as_bytes())]).file("x", b"");
    }
    tar.finish()
}

/// Zeros in a tar, as a gzip of many members: a little makes a lot.
pub fn gzip_bomb(members: usize) -> Vec<u8> {
    let size = members as u64 * (4 << 20);
    let header = Header::new("zeros", b'0').size(size);
    let mut bomb = gzip(&header.block());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; 4 << 20]).unwrap();
    let zeros = encoder.finish().unwrap();
    for _ in 0..members {
        bomb.extend_from_slice(&zeros);
    }
    bomb.extend_from_slice(&gzip(&[0; 1024]));
    bomb
}

/// A zstd frame of raw blocks with the window it says it needs.
pub fn zstd_frame(bytes: &[u8], window_log: u8) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (window_log - 10) << 3];
    let mut blocks = bytes.chunks(64 * 1024).peekable();
    while let Some(block) = blocks.next() {
        let header = u32::try_from(block.len()).unwrap() << 3 | u32::from(blocks.peek().is_none());
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}
