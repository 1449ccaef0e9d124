//! Removing links in the background.
//!
//! The kernel takes some 25 ms to remove a link, for it waits until nobody can be looking at it any more; nobody should wait
//! with it. So a detached endpoint is handed to one thread, which removes the link, forgets its connections and gives the
//! lease back, in this order: an address is only given to another container when nothing of the first is left.
//!
//! Invariants: a container in `leaving` has a row, no published port, and is nobody else's to touch.
//!
//! Locking: `leaving` is a leaf: nothing is asked of the kernel or the database while it is held.
//!
//! Crash: rows of containers that were leaving are left, and the next reconcile sweeps them. When the last handle of the
//! network goes, the thread finishes what is queued and ends.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use wharf_linux::netlink::{self, Family, Socket};

use crate::records::Records;
use crate::{Endpoint, Error, conntrack, link};

/// The thread and what it still has to do.
#[derive(Debug)]
pub(crate) struct Removal {
    queue: Sender<Endpoint>,
    pending: Arc<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    leaving: Mutex<BTreeSet<String>>,
    changed: Condvar,
    failed: Mutex<Failed>,
}

/// Takes the name of a container.
type Listener = Box<dyn Fn(&str) + Send>;

/// Who is told that a container could not be removed.
#[derive(Default)]
struct Failed(Option<Listener>);

impl std::fmt::Debug for Failed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Failed").field(&self.0.is_some()).finish()
    }
}

impl Removal {
    /// Starts the thread, which works in the calling thread's network namespace.
    pub(crate) fn start(records: Records) -> Result<Self, Error> {
        let failed = |source| Error::Kernel { action: "start removing network interfaces".into(), source };
        let sockets = Sockets::open().map_err(failed)?;
        let (queue, jobs) = mpsc::channel();
        let pending = Arc::new(Pending::default());
        let shared = Arc::clone(&pending);
        std::thread::Builder::new()
            .name("net-removal".into())
            .stack_size(128 * 1024)
            .spawn(move || work(&jobs, sockets, &records, &shared))
            .map_err(|source| failed(netlink::Error::Socket { call: "clone", source }))?;
        Ok(Self { queue, pending })
    }

    /// Tells `listener` of every container that could not be removed and has to be detached again.
    pub(crate) fn on_failure(&self, listener: Listener) {
        self.pending.failed().0 = Some(listener);
    }

    /// Marks a container as leaving: from now on the firewall is built without it. False if it is already.
    pub(crate) fn announce(&self, container: &str) -> bool {
        self.pending.lock().insert(container.to_owned())
    }

    /// Takes an announcement back: the container has left, or stays recorded for another attempt.
    pub(crate) fn forget(&self, container: &str) {
        self.pending.done(container);
    }

    /// Queues an announced endpoint.
    pub(crate) fn enqueue(&self, endpoint: Endpoint) {
        if let Err(unsent) = self.queue.send(endpoint) {
            // The thread has panicked. The row stays, and the next reconcile sweeps it.
            self.pending.done(&unsent.0.container);
        }
    }

    /// True for a container that is leaving.
    pub(crate) fn is_leaving(&self, container: &str) -> bool {
        self.pending.lock().contains(container)
    }

    /// Waits until a container that was leaving has left.
    pub(crate) fn wait_for(&self, container: &str) {
        self.pending.wait_while(|leaving| leaving.contains(container));
    }

    /// Waits until nobody is leaving.
    pub(crate) fn wait(&self) {
        self.pending.wait_while(|leaving| !leaving.is_empty());
    }
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, Failed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl Fn(&BTreeSet<String>) -> bool) {
        drop(self.changed.wait_while(self.lock(), |leaving| condition(leaving)));
    }

    fn done(&self, container: &str) {
        self.lock().remove(container);
        self.changed.notify_all();
    }
}

/// What removing takes.
#[derive(Debug)]
pub(crate) struct Sockets {
    route: Socket,
    filter: Socket,
}

impl Sockets {
    pub(crate) fn open() -> Result<Self, netlink::Error> {
        Ok(Self { route: Socket::open(Family::Route)?, filter: Socket::open(Family::Netfilter)? })
    }

    /// Removes an endpoint whose ports are not published any more, and gives its lease back.
    pub(crate) fn remove(&mut self, records: &Records, endpoint: &Endpoint) -> Result<(), Error> {
        link::delete(&mut self.route, &endpoint.host_interface).map_err(|source| Error::Kernel {
            action: format!("remove the network interface of {}", endpoint.container),
            source,
        })?;
        conntrack::forget_address(&mut self.filter, endpoint.address);
        records.remove(&endpoint.container)
    }
}

fn work(jobs: &Receiver<Endpoint>, mut sockets: Sockets, records: &Records, pending: &Pending) {
    while let Ok(endpoint) = jobs.recv() {
        // The row keeps the rest for the next detach, attach or reconcile.
        let removed = sockets.remove(records, &endpoint);
        pending.done(&endpoint.container);
        if let Err(error) = removed {
            tracing::warn!(container = %endpoint.container, "{error}; it will be tried again");
            if let Some(listener) = &pending.failed().0 {
                listener(&endpoint.container);
            }
        }
    }
}
