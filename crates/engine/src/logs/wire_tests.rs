//! Connections against receivers of the test's own.

use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::super::facts::tests::some;
use super::super::journald;
use super::super::messages::Message;
use super::super::tail::Encode;
use super::*;

fn batch(messages: &[&[u8]]) -> Batch {
    let mut batch = Batch::default();
    for message in messages {
        batch.bytes.extend_from_slice(message);
        batch.ends.push(batch.bytes.len());
    }
    batch
}

/// One entry as the journal gets it: a datagram, or a sealed file in memory.
fn entry(socket: &UnixDatagram) -> (Vec<u8>, bool) {
    let mut bytes = vec![0; 1 << 20];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty());
    bytes.truncate(received.unwrap().bytes);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            let fd = fds.next().unwrap();
            let seals = rustix::fs::fcntl_get_seals(&fd).unwrap();
            assert!(seals.contains(rustix::fs::SealFlags::WRITE | rustix::fs::SealFlags::SHRINK));
            let mut file = std::fs::File::from(fd);
            io::Seek::rewind(&mut file).unwrap();
            bytes.clear();
            file.read_to_end(&mut bytes).unwrap();
            return (bytes, true);
        }
    }
    (bytes, false)
}

#[tokio::test]
async fn the_journal_gets_small_entries_as_datagrams_and_large_ones_as_sealed_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    assert_eq!(journald::find(&path).unwrap_err(), "journald is not enabled on this host");
    let journal = UnixDatagram::bind(&path).unwrap();
    journald::find(&path).unwrap();
    // Variables that are chosen go into every entry, and may be of any size.
    let facts = some(&[("labels", "tier")]);
    let mut encoder = journald::Encoder::new(&facts).unwrap();
    let mut batch = Batch::default();
    for text in ["small", "second"] {
        let message = Message {
            stream: wharf_shim::spool::Stream::Stdout,
            time_ns: 1,
            bytes: text.as_bytes(),
            partial: None,
        };
        encoder.encode(&message, 0, &mut batch.bytes);
        batch.ends.push(batch.bytes.len());
    }
    let large = [b"MESSAGE=".to_vec(), vec![b'x'; 700_000], b"\n".to_vec()].concat();
    batch.bytes.extend_from_slice(&large);
    batch.ends.push(batch.bytes.len());
    let receiver = std::thread::spawn(move || [entry(&journal), entry(&journal), entry(&journal)]);
    let mut connection = connect(&Place::Unixgram(path)).await.unwrap();
    let mut done = 0;
    connection.send(&batch, &mut done).await.unwrap();
    assert_eq!(done, 3);
    let entries = receiver.join().unwrap();
    assert!(entries[0].0.starts_with(b"MESSAGE=small\nPRIORITY=6\nCONTAINER_ID=0123456789ab\n"));
    assert!(entries[1].0.starts_with(b"MESSAGE=second\n"));
    assert!(!entries[0].1 && entries[2] == (large, true));
}

#[tokio::test]
async fn receivers_that_are_not_there_are_named_in_dockers_words() {
    let refused = |place| async move { connect(&place).await.err().unwrap() };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tcp = Place::Tcp { host: "127.0.0.1".into(), port: free.port() };
    assert_eq!(refused(tcp).await, format!("dial tcp {free}: connect: connection refused"));
    assert_eq!(
        refused(Place::Unix("/nonexistent/s".into())).await,
        "dial unix /nonexistent/s: connect: no such file or directory"
    );
}

#[tokio::test]
async fn a_connection_that_the_receiver_closed_is_noticed_before_anything_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut connection = connect(&Place::Tcp { host: "127.0.0.1".into(), port }).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    let batch = batch(&[b"one\n", b"two\n"]);
    let mut done = 1;
    connection.send(&batch, &mut done).await.unwrap();
    let mut got = [0; 4];
    peer.read_exact(&mut got).await.unwrap();
    assert_eq!((&got, done), (b"two\n", 2));
    drop(peer);
    let mut done = 0;
    // The end of the connection takes a moment to arrive.
    while connection.send(&batch, &mut done).await.is_ok() {
        done = 0;
        tokio::task::yield_now().await;
    }
    assert_eq!(done, 0);
}

/// A receiver with a certificate that the test authority vouches for.
fn tls_acceptor(certificates: &Path) -> tokio_rustls::TlsAcceptor {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_file_iter(certificates.join("first.pem")).unwrap();
    let chain: Vec<_> = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(certificates.join("first.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    tokio_rustls::TlsAcceptor::from(Arc::new(settings))
}

#[tokio::test]
async fn tls_receivers_are_trusted_by_the_authority_that_was_named_only() {
    let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../registry-server/tests/certificates");
    let acceptor = tls_acceptor(&certificates);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let mut got = Vec::new();
        for _ in 0..3 {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust us leaves in the middle.
            if let Ok(mut stream) = acceptor.accept(stream).await {
                // Late: what a reset would have thrown away is still there.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let mut bytes = Vec::new();
                let _cut = stream.read_to_end(&mut bytes).await;
                got.push(String::from_utf8(bytes).unwrap());
            }
        }
        got
    });
    let with = |files: TlsFiles| {
        let place = Place::Tls { host: "localhost".into(), port, files };
        async move {
            let mut connection = connect(&place).await?;
            connection.send(&batch(&[b"line\n"]), &mut 0).await
        }
    };
    let refusal = with(TlsFiles::default()).await.unwrap_err();
    assert!(refusal.starts_with("tls: "), "{refusal}");
    let authority = TlsFiles { authorities: Some(certificates.join("ca.pem")), ..TlsFiles::default() };
    with(authority).await.unwrap();
    with(TlsFiles { skip_verify: true, ..TlsFiles::default() }).await.unwrap();
    let got: Vec<String> = server.await.unwrap().into_iter().filter(|text| !text.is_empty()).collect();
    assert_eq!(got, ["line\n", "line\n"]);
}
