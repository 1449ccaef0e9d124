//! Measures what ADR 0008 decides by: loading an archive, the first and later snapshots, and deletion, with layers as
//! directories or as files. `cargo run --release -p wharf-image --example layers -- ARCHIVE automatic|directories [DIR]`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for developers")]

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use wharf_image::{Images, LayerStorage, Options};
use wharf_state::Database;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let archive = arguments.next().unwrap();
    let storage = match arguments.next().as_deref() {
        Some("directories") => LayerStorage::Directories,
        _ => LayerStorage::Automatic,
    };
    let above = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(above).unwrap();
    let open = || {
        let db = Database::open(&dir.path().join("state.db")).unwrap();
        Images::open_with(dir.path(), db, Options { layers: storage, ..Options::default() }).unwrap()
    };
    let images = open();
    let timed = |what: &str, action: &mut dyn FnMut()| {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        action();
        println!(
            "{what:<28} {:9.1} ms   cpu {:5.2} s",
            start.elapsed().as_secs_f64() * 1e3,
            cpu_seconds() - cpu
        );
    };
    let mut id = None;
    timed("load", &mut || {
        id = Some(images.load(&mut File::open(&archive).unwrap(), &mut |_| {}).unwrap()[0].id);
    });
    let id = id.unwrap();
    let images = {
        // Without mounts, as after a reboot.
        drop(images);
        open()
    };
    timed("first snapshot after boot", &mut || drop(images.create_snapshot("one", &id).unwrap()));
    timed("second snapshot", &mut || drop(images.create_snapshot("two", &id).unwrap()));
    timed("snapshot of a start", &mut || drop(images.snapshot("two").unwrap()));
    timed("check of all layers", &mut || assert_eq!(images.damaged_layers().unwrap(), []));
    for key in ["one", "two"] {
        images.remove_snapshot(key).unwrap();
    }
    timed("remove (answer)", &mut || drop(images.remove(&id.to_string(), true, &|_| Vec::new()).unwrap()));
    timed("remove (all space back)", &mut || images.collect().unwrap());
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}
