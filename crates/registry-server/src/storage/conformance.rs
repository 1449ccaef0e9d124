//! What every storage must do. An implementation's tests call [`all`] with a way to open it (again): what is opened the
//! second time is the same storage after a restart.

use std::io;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use wharf_content::digest_of;
use wharf_model::Digest;

use super::{Change, Error, Pieces, Storage, UploadId};

/// The whole suite.
pub(crate) async fn all<F: Future<Output = Storage>>(mut open: impl FnMut() -> F) {
    let storage = open().await;
    records_are_put_read_listed_and_deleted(&storage).await;
    lists_are_pages_in_order_of_bytes(&storage).await;
    large_values_come_back(&storage).await;
    a_blob_is_read_whole_and_in_ranges(&storage).await;
    wrong_bytes_are_refused_and_forgotten(&storage).await;
    uploads_go_on_where_they_are(&storage).await;
    a_failing_body_keeps_what_came(&storage).await;
    discarded_uploads_begin_anew(&storage).await;
    blobs_are_listed_and_removed(&storage).await;
    a_blob_being_read_survives_its_removal(&storage).await;
    many_at_once(&storage).await;
    let (upload, bytes) = leave_an_upload(&storage).await;
    let digest = put(&storage, b"before the restart").await;
    write(&storage, vec![set("restart/key", "kept")]).await;
    drop(storage);
    let storage = open().await;
    assert_eq!(get(&storage, "restart/key").await.as_deref(), Some(&b"kept"[..]));
    assert_eq!(read(&storage, digest).await, b"before the restart");
    go_on_after_the_restart(&storage, upload, &bytes).await;
}

fn pieces(bytes: &[u8], size: usize) -> Pieces<'static> {
    let pieces: Vec<_> = bytes.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces).boxed()
}

fn set(key: &str, value: &str) -> Change {
    Change::Put(key.to_owned(), Bytes::copy_from_slice(value.as_bytes()))
}

async fn write(storage: &Storage, changes: Vec<Change>) {
    storage.records.write(changes).await.unwrap();
}

async fn get(storage: &Storage, key: &str) -> Option<Bytes> {
    storage.records.get(key).await.unwrap()
}

async fn list(storage: &Storage, prefix: &str, after: &str, limit: usize) -> Vec<String> {
    storage.records.list(prefix, after, limit).await.unwrap()
}

async fn put(storage: &Storage, bytes: &[u8]) -> Digest {
    let upload = UploadId::random().unwrap();
    let digest = digest_of(bytes);
    let length = storage.blobs.append(upload, 0, pieces(bytes, 7919)).await.unwrap();
    assert_eq!(length, bytes.len() as u64);
    assert_eq!(storage.blobs.commit(upload, digest).await.unwrap(), length);
    digest
}

async fn read(storage: &Storage, digest: Digest) -> Vec<u8> {
    let size = storage.blobs.size(digest).await.unwrap().unwrap();
    collect(storage.blobs.read(digest, 0..size).await.unwrap()).await
}

async fn collect(pieces: Pieces<'_>) -> Vec<u8> {
    let pieces: Vec<Bytes> = pieces.try_collect().await.unwrap();
    pieces.concat()
}

/// Bytes that no compression or sparse file makes easier.
fn noise(length: usize) -> Vec<u8> {
    let mut random = wharf_testkit::random::Random::seeded(length as u64);
    std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(length).collect()
}

async fn records_are_put_read_listed_and_deleted(storage: &Storage) {
    assert_eq!(get(storage, "a/none").await, None);
    write(storage, vec![set("a/x", "1"), set("a/x/_/y", "2"), set("a/empty", "")]).await;
    assert_eq!(get(storage, "a/x").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(get(storage, "a/x/_/y").await.as_deref(), Some(&b"2"[..]));
    assert_eq!(get(storage, "a/empty").await.as_deref(), Some(&b""[..]));
    // In the order of the list, and deleting what is not there is no error.
    write(storage, vec![set("a/x", "3"), Change::Delete("a/x".into()), Change::Delete("a/never".into())])
        .await;
    assert_eq!(get(storage, "a/x").await, None);
    write(storage, vec![Change::Delete("a/empty".into()), set("a/empty", "4")]).await;
    assert_eq!(get(storage, "a/empty").await.as_deref(), Some(&b"4"[..]));
    assert_eq!(list(storage, "a/", "", 10).await, ["empty", "x/_/y"]);
    write(storage, vec![]).await;
}

async fn lists_are_pages_in_order_of_bytes(storage: &Storage) {
    let names = ["A", "a", "a-b", "a.b", "a/b", "a/b/c", "a0", "a_b", "b"];
    write(storage, names.iter().map(|name| set(&format!("n/{name}"), "")).collect()).await;
    write(storage, vec![set("n", ""), set("n0", ""), set("m/z", ""), set("nn/a", "")]).await;
    assert_eq!(list(storage, "n/", "", 100).await, names);
    assert_eq!(list(storage, "n/", "", 2).await, ["A", "a"]);
    assert_eq!(list(storage, "n/", "a", 3).await, ["a-b", "a.b", "a/b"]);
    assert_eq!(list(storage, "n/", "a-", 1).await, ["a-b"], "begins after what is not there");
    assert_eq!(list(storage, "n/", "b", 5).await, [""; 0]);
    assert_eq!(list(storage, "n/a/", "", 5).await, ["b", "b/c"]);
    assert_eq!(list(storage, "none/", "", 5).await, [""; 0]);
}

async fn large_values_come_back(storage: &Storage) {
    let value = Bytes::from(noise(4 << 20));
    write(storage, vec![Change::Put("large/value".into(), value.clone())]).await;
    assert_eq!(get(storage, "large/value").await, Some(value));
}

async fn a_blob_is_read_whole_and_in_ranges(storage: &Storage) {
    for length in [0, 1, 256 << 10, (256 << 10) + 1, (3 << 20) + 17] {
        let bytes = noise(length);
        let digest = put(storage, &bytes).await;
        assert_eq!(storage.blobs.size(digest).await.unwrap(), Some(length as u64));
        assert!(read(storage, digest).await == bytes, "{length}");
        // Twice is no error.
        assert_eq!(put(storage, &bytes).await, digest);
    }
    let bytes = noise((3 << 20) + 17);
    let digest = digest_of(&bytes);
    let end = bytes.len() as u64;
    for range in [0..1, 5..5, 1000..300_000, end - 1..end, (256 << 10) - 1..end] {
        let wanted = &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        let got = collect(storage.blobs.read(digest, range.clone()).await.unwrap()).await;
        assert!(got == wanted, "{range:?}");
    }
    let absent = digest_of(b"nobody put this");
    assert_eq!(storage.blobs.size(absent).await.unwrap(), None);
    assert!(
        matches!(storage.blobs.read(absent, 0..1).await.err(), Some(Error::NotFound(digest)) if digest == absent)
    );
}

async fn wrong_bytes_are_refused_and_forgotten(storage: &Storage) {
    let upload = UploadId::random().unwrap();
    storage.blobs.append(upload, 0, pieces(b"these bytes", 4)).await.unwrap();
    let expected = digest_of(b"other bytes");
    let error = storage.blobs.commit(upload, expected).await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { found, .. } if found == digest_of(b"these bytes")), "{error}");
    assert_eq!(storage.blobs.size(expected).await.unwrap(), None);
    assert_eq!(storage.blobs.size(digest_of(b"these bytes")).await.unwrap(), None);
    assert_eq!(storage.blobs.length(upload).await.unwrap(), 0);
    storage.blobs.discard(upload).await.unwrap();
}

async fn uploads_go_on_where_they_are(storage: &Storage) {
    let upload = UploadId::random().unwrap();
    let bytes = noise((5 << 20) + 3);
    assert_eq!(storage.blobs.length(upload).await.unwrap(), 0);
    let (mut at, mut step) = (0, 1);
    while at < bytes.len() {
        let end = bytes.len().min(at + step);
        let length = storage.blobs.append(upload, at as u64, pieces(&bytes[at..end], 65_537)).await.unwrap();
        assert_eq!(length, end as u64);
        (at, step) = (end, step * 37);
    }
    for wrong in [0, bytes.len() as u64 - 1, bytes.len() as u64 + 1] {
        let error = storage.blobs.append(upload, wrong, pieces(b"x", 1)).await.unwrap_err();
        assert!(matches!(error, Error::Offset { length } if length == bytes.len() as u64), "{error}");
    }
    assert_eq!(storage.blobs.length(upload).await.unwrap(), bytes.len() as u64);
    storage.blobs.commit(upload, digest_of(&bytes)).await.unwrap();
    assert!(read(storage, digest_of(&bytes)).await == bytes);
}

async fn a_failing_body_keeps_what_came(storage: &Storage) {
    let upload = UploadId::random().unwrap();
    let cut = pieces(b"0123456789", 3).chain(stream::iter([Err(io::ErrorKind::ConnectionReset.into())]));
    let error = storage.blobs.append(upload, 0, cut.boxed()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Body(error) if error.kind() == io::ErrorKind::ConnectionReset),
        "{error}"
    );
    assert_eq!(storage.blobs.length(upload).await.unwrap(), 10);
    storage.blobs.append(upload, 10, pieces(b"ab", 2)).await.unwrap();
    storage.blobs.commit(upload, digest_of(b"0123456789ab")).await.unwrap();
}

async fn discarded_uploads_begin_anew(storage: &Storage) {
    let upload = UploadId::random().unwrap();
    storage.blobs.append(upload, 0, pieces(b"forget me", 9)).await.unwrap();
    storage.blobs.discard(upload).await.unwrap();
    storage.blobs.discard(upload).await.unwrap();
    assert_eq!(storage.blobs.length(upload).await.unwrap(), 0);
    storage.blobs.discard(upload).await.unwrap();
}

async fn blobs_are_listed_and_removed(storage: &Storage) {
    let mut mine = Vec::new();
    for n in 0..5 {
        mine.push(put(storage, format!("listed {n}").as_bytes()).await);
    }
    let everything = storage.blobs.list(None, 10_000).await.unwrap();
    assert!(everything.is_sorted());
    assert!(mine.iter().all(|digest| everything.contains(&(*digest, 8))));
    let mut paged = Vec::new();
    while let Some(page) = Some(storage.blobs.list(paged.last().map(|(digest, _)| *digest), 2).await.unwrap())
        .filter(|page| !page.is_empty())
    {
        assert!(page.len() <= 2);
        paged.extend(page);
    }
    assert_eq!(paged, everything);
    for digest in mine {
        storage.blobs.remove(digest).await.unwrap();
        storage.blobs.remove(digest).await.unwrap();
        assert_eq!(storage.blobs.size(digest).await.unwrap(), None);
        assert!(storage.blobs.read(digest, 0..8).await.is_err());
    }
    assert_eq!(storage.blobs.list(None, 10_000).await.unwrap().len(), everything.len() - 5);
}

async fn a_blob_being_read_survives_its_removal(storage: &Storage) {
    let bytes = noise((4 << 20) + 5);
    let digest = put(storage, &bytes).await;
    let mut reading = storage.blobs.read(digest, 0..bytes.len() as u64).await.unwrap();
    let first = reading.next().await.unwrap().unwrap();
    storage.blobs.remove(digest).await.unwrap();
    let rest = collect(reading).await;
    assert!([&first[..], &rest].concat() == bytes);
}

async fn many_at_once(storage: &Storage) {
    let tasks = (0..24).map(|n| async move {
        let bytes = noise(100_000 + n % 3);
        let digest = put(storage, &bytes).await;
        write(storage, vec![set(&format!("many/{n}"), "x")]).await;
        assert!(get(storage, &format!("many/{n}")).await.is_some());
        assert!(read(storage, digest).await == bytes);
    });
    futures_util::future::join_all(tasks).await;
    assert_eq!(list(storage, "many/", "", 100).await.len(), 24);
}

async fn leave_an_upload(storage: &Storage) -> (UploadId, Vec<u8>) {
    let upload = UploadId::random().unwrap();
    let bytes = noise((2 << 20) + 99);
    let half = bytes.len() / 2;
    storage.blobs.append(upload, 0, pieces(&bytes[..half], 4096)).await.unwrap();
    (upload, bytes)
}

async fn go_on_after_the_restart(storage: &Storage, upload: UploadId, bytes: &[u8]) {
    let length = storage.blobs.length(upload).await.unwrap();
    assert_eq!(length, bytes.len() as u64 / 2, "an orderly restart loses nothing");
    let at = usize::try_from(length).unwrap();
    storage.blobs.append(upload, length, pieces(&bytes[at..], 8192)).await.unwrap();
    storage.blobs.commit(upload, digest_of(bytes)).await.unwrap();
    assert!(read(storage, digest_of(bytes)).await == bytes);
}
