//! `manifest push`: puts a list into a registry, with everything it needs there.
//!
//! Manifests of the list that are in other repositories of the registry come along: first their blobs, mounted or, where
//! a registry does not do that, copied; then they themselves; the list last, so that it never names what is not there.

use std::io::{self, Read, Seek as _, Write as _};

use wharf_content::{digest_of, spec::Descriptor as Blob};
use wharf_model::Reference;
use wharf_registry::{Access, BlobSource, Error, Repository, Target};

use super::{
    list, reference,
    remote::{self, Remote, failed},
    store::{self, Store},
};
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    verb::{Arity, Verb},
};

/// The raw arguments of `manifest push`.
#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// Speak to a registry without a certificate that can be checked
    #[arg(long)]
    insecure: bool,
    /// Forget the list on this machine afterwards
    #[arg(short = 'p', long)]
    purge: bool,
    #[arg(hide = true)]
    list: Vec<String>,
}

impl Verb for Push {
    const ABOUT: &'static str = "Upload a list of manifests to a registry";
    const USAGE: &'static str = "[OPTIONS] MANIFEST_LIST";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let store = Store::of(cli.config().directory());
        let name = reference(&self.list[0])?;
        let entries = store.list(&name)?.ok_or_else(|| store::unknown(&name))?;
        let document = list::build(&name, &entries)?;
        let insecure = [&name];
        let remote = Remote::new(if self.insecure { &insecure } else { &[] })?;
        let repository = remote.repository(cli, &name, Access::Push).await?;
        let foreign: Vec<_> = entries.iter().filter(|entry| entry.reference.path() != name.path()).collect();
        for entry in &foreign {
            let source = remote.repository(cli, &entry.reference, Access::Pull).await?;
            for blob in remote::blobs(entry)? {
                bring(&repository, &source, &blob, &entry.reference).await?;
            }
        }
        for entry in foreign {
            let digest = entry.descriptor.digest;
            let target = Target::Digest(digest);
            repository
                .put_manifest(&target, &entry.descriptor.media_type, &entry.bytes)
                .await
                .map_err(failed)?;
            cli.line(&format!("Pushed ref {} with digest: {digest}", name.with_digest(digest)))?;
        }
        repository
            .put_manifest(&Target::from(&name), document.media_type, &document.bytes)
            .await
            .map_err(failed)?;
        cli.line(&digest_of(&document.bytes).to_string())?;
        if self.purge { store.remove(&name) } else { Ok(()) }
    }
}

/// A blob that is not on this machine.
struct Elsewhere;

impl BlobSource for Elsewhere {
    fn open(&self, _from: u64) -> io::Result<Box<dyn Read + Send>> {
        Err(io::Error::other("the registry does not mount blobs of its other repositories"))
    }
}

/// A blob in a file without a name.
struct Copied(std::fs::File);

impl BlobSource for Copied {
    fn open(&self, from: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file = self.0.try_clone()?;
        file.seek(io::SeekFrom::Start(from))?;
        Ok(Box::new(file))
    }
}

/// Brings a blob from one repository of a registry to another.
async fn bring(to: &Repository, from: &Repository, blob: &Blob, name: &Reference) -> Result {
    match to.push_blob(blob, &Elsewhere, Some(name.path()), &mut |_| {}).await {
        Ok(_) => return Ok(()),
        Err(Error::Source { .. }) => {}
        Err(error) => return Err(failed(error)),
    }
    let unusable =
        |error: io::Error| Failure::message(format!("cannot keep {} for a moment: {error}", blob.digest));
    let mut file = unnamed_file().map_err(unusable)?;
    let mut download = from.blob(blob, 0).await.map_err(failed)?;
    while let Some(chunk) = download.chunk().await.map_err(failed)? {
        file.write_all(&chunk).map_err(unusable)?;
    }
    // The registry checks what it is sent against the digest.
    to.push_blob(blob, &Copied(file), None, &mut |_| {}).await.map_err(failed)?;
    Ok(())
}

/// A file that nobody else can open and that goes away with this process.
fn unnamed_file() -> io::Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)?.into())
}
