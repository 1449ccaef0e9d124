//! `system dial-stdio`: the engine's connection on standard input and output, for who comes by ssh.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wharf_api::stream::StreamKind;

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    terminal::{input::Input, output::Output},
    verb::{Arity, Verb},
};

/// The raw arguments of `system dial-stdio`.
#[derive(Debug, clap::Args)]
pub(crate) struct DialStdio {}

impl Verb for DialStdio {
    const ABOUT: &'static str =
        "Proxy the stdio stream to the daemon connection. Should not be invoked manually.";
    const USAGE: &'static str = "";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let (mut reader, mut writer) = tokio::io::split(cli.engine().await?.dial().await?);
        let there = async {
            let mut input = Input::open()?;
            let mut buffer = vec![0; 64 << 10];
            loop {
                let count = input.read(&mut buffer).await?;
                if count == 0 {
                    break;
                }
                writer.write_all(&buffer[..count]).await?;
            }
            // The engine still answers what it was sent.
            writer.shutdown().await?;
            Ok::<_, Failure>(())
        };
        let back = async {
            let mut output = Output::default();
            let mut buffer = vec![0; 64 << 10];
            loop {
                let count = reader.read(&mut buffer).await?;
                if count == 0 {
                    return output.finish().await.map_err(Failure::from);
                }
                output.write(StreamKind::Stdout, Bytes::copy_from_slice(&buffer[..count])).await?;
            }
        };
        tokio::pin!(there, back);
        tokio::select! {
            done = &mut back => done,
            sent = &mut there => {
                sent?;
                back.await
            }
        }
    }
}
