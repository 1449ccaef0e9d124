//! What is added to an ending when nobody waits for it any more: what the container's files and its last words tell.

use std::sync::Arc;
use std::time::Duration;

use wharf_shim::spool;

use super::Container;
use crate::blocking::blocking;
use crate::why::command::{self, Finding};
use crate::why::{Cause, Ending, reason};
use crate::{Engine, Error};

/// How long the container's files may be looked at; a mount of it may hang.
const LOOK: Duration = Duration::from_secs(5);
/// Lines of output that are evidence.
const LAST_WORDS: u64 = 3;
/// Characters of each.
const WORD: usize = 200;

impl Engine {
    /// Why a start failed; looks at the command if that is what failed.
    pub(super) async fn explain_start(&self, container: &Arc<Container>, error: &Error, code: i32) -> Ending {
        let mut ending = reason::of_start(&container.record(), error, code);
        if matches!(ending.kind, Cause::CommandMissing | Cause::CommandNotExecutable) {
            self.look_at_command(container, &mut ending).await;
        }
        ending
    }

    /// Completes the ending of a run that is over and keeps it.
    pub(super) async fn explain_end(&self, container: &Arc<Container>) {
        let Some(mut ending) = container.record().ending.clone() else { return };
        let plain = ending.clone();
        // 255 at once is how a program for another processor ends.
        if ending.kind == Cause::Failed && ending.exit_code == 255 {
            self.look_at_command(container, &mut ending).await;
        }
        if matches!(ending.kind, Cause::Failed | Cause::Crashed | Cause::ChildOutOfMemory) {
            ending.evidence.extend(self.last_words(container).await);
        }
        if ending != plain {
            container.record().ending = Some(ending.clone());
            if !container.progress.borrow().removed
                && let Err(error) = self.save(container).await
            {
                tracing::error!(container = %container.id, %error, "cannot record why the container ended");
            }
        }
        self.inner.endings.add(ending);
        self.keep_endings().await;
    }

    async fn look_at_command(&self, container: &Arc<Container>, ending: &mut Ending) {
        let looked = tokio::time::timeout(LOOK, async {
            let tree = self.tree_at_rest(container).await?;
            let record = container.record().clone();
            blocking(move || tree.enter(|root| Ok(command::look(root, &record)))).await
        });
        let finding = match looked.await {
            Ok(Ok(finding)) => finding,
            Ok(Err(error)) => {
                tracing::debug!(container = %container.id, %error, "cannot look at the command");
                Finding::Nothing
            }
            Err(_) => Finding::Nothing,
        };
        let platform = container.record().spec.platform.clone();
        command::explain(ending, finding, platform.as_deref());
    }

    /// The last lines of a container's output, each cut.
    async fn last_words(&self, container: &Arc<Container>) -> Vec<String> {
        let directory = self.inner.config.containers_dir().join(container.id.as_str()).join("log");
        let read = blocking(move || {
            let mut words = Vec::new();
            let Ok(mut lines) = spool::tail(&directory, LAST_WORDS) else { return Ok(words) };
            while let Ok(Some(spool::Piece::Line(line))) = lines.next() {
                let text = String::from_utf8_lossy(line.bytes);
                let text: String = text.trim_end().chars().filter(|c| !c.is_control()).take(WORD).collect();
                if !text.is_empty() {
                    words.push(format!("it last said: {text}"));
                }
            }
            Ok(words)
        });
        read.await.unwrap_or_default()
    }
}
