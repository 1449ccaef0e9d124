//! What is remembered: the bridge's subnet and every endpoint, with the addresses they lease.
//!
//! Layout: `net_bridge` has at most one row, `net_endpoints` one per container. The address is a column of its own so that
//! the database, not this code, forbids a second lease; the rest of an endpoint is one JSON document.
//!
//! Invariants: a row is written before anything of the endpoint exists in the kernel and removed only when nothing does.
//!
//! Crash: a row without an endpoint is swept by `reconcile`; an endpoint without a row cannot be.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use wharf_state::Database;
use wharf_state::rusqlite::{Connection, OptionalExtension};

use crate::{Endpoint, Error, PublishedPort, ports};

/// The tables, step by step; only ever appended to.
const STEPS: &[&str] = &["
    CREATE TABLE net_bridge (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        gateway TEXT NOT NULL
    ) STRICT;
    CREATE TABLE net_endpoints (
        container TEXT PRIMARY KEY,
        address INTEGER NOT NULL UNIQUE,
        record TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
"];

/// The records of one network.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    database: Database,
}

/// The addresses of a bridge: its own, with the prefix length of the subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) gateway: Ipv4Net,
}

impl Pool {
    /// The subnet the bridge's address lies in.
    pub(crate) fn subnet(&self) -> Ipv4Net {
        self.gateway.trunc()
    }

    /// The first and the last address a container may have, as numbers.
    fn range(&self) -> (u32, u32) {
        let subnet = self.gateway.trunc();
        (u32::from(subnet.network()) + 1, u32::from(subnet.broadcast()) - 1)
    }

    /// True when a container may have this address.
    fn offers(&self, address: Ipv4Addr) -> bool {
        let (first, last) = self.range();
        (first..=last).contains(&u32::from(address)) && address != self.gateway.addr()
    }
}

impl Records {
    pub(crate) fn open(database: Database) -> Result<Self, Error> {
        database.migrate("net", STEPS)?;
        Ok(Self { database })
    }

    /// The addresses chosen earlier.
    pub(crate) fn pool(&self) -> Result<Option<Pool>, Error> {
        let gateway: Option<String> = self
            .database
            .read(|db| db.query_row("SELECT gateway FROM net_bridge", [], |row| row.get(0)).optional())?;
        // A value that cannot be read is chosen anew, as if it had never been there.
        Ok(gateway.and_then(|text| text.parse().ok()).map(|gateway| Pool { gateway }))
    }

    pub(crate) fn set_pool(&self, pool: Pool) -> Result<(), Error> {
        self.database.write(|tx| {
            tx.execute(
                "INSERT INTO net_bridge (only, gateway) VALUES (1, ?1)
                 ON CONFLICT (only) DO UPDATE SET gateway = excluded.gateway",
                [pool.gateway.to_string()],
            )?;
            Ok(())
        })
    }

    /// Every container that has an endpoint, in order.
    pub(crate) fn containers(&self) -> Result<Vec<String>, Error> {
        self.database.read(|db| {
            let mut statement =
                db.prepare_cached("SELECT container FROM net_endpoints ORDER BY container")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Every endpoint that can be read, by container. One damaged record must not take the others down with it.
    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        let mut endpoints = Vec::new();
        for container in self.containers()? {
            match self.endpoint(&container) {
                Ok(endpoint) => endpoints.extend(endpoint),
                Err(error @ Error::Record { .. }) => tracing::warn!("{error}"),
                Err(error) => return Err(error),
            }
        }
        Ok(endpoints)
    }

    pub(crate) fn endpoint(&self, container: &str) -> Result<Option<Endpoint>, Error> {
        let record: Option<String> = self.database.read(|db| {
            db.prepare_cached("SELECT record FROM net_endpoints WHERE container = ?1")?
                .query_row([container], |row| row.get(0))
                .optional()
        })?;
        record.map(|record| parse(container.to_owned(), &record)).transpose()
    }

    pub(crate) fn is_empty(&self) -> Result<bool, Error> {
        let any: bool = self
            .database
            .read(|db| db.query_row("SELECT EXISTS (SELECT 1 FROM net_endpoints)", [], |row| row.get(0)))?;
        Ok(!any)
    }

    /// Leases an address and records the endpoint that `make` builds on it, both or neither. `make` may ask who has
    /// published a port.
    pub(crate) fn grant<T>(
        &self,
        pool: Pool,
        wish: Option<Ipv4Addr>,
        make: impl FnOnce(Ipv4Addr, &ports::Holder<'_>) -> Result<(Endpoint, T), Error>,
    ) -> Result<(Endpoint, T), Error> {
        self.database.write(|tx| {
            let address = match wish {
                Some(address) => wished(tx, pool, address)?,
                None => next_free(tx, pool)?,
            };
            let (endpoint, more) = make(address, &|port| holder(tx, port))?;
            let record = serde_json::to_string(&endpoint)
                .map_err(|source| Error::Record { container: endpoint.container.clone(), source })?;
            tx.prepare_cached("INSERT INTO net_endpoints (container, address, record) VALUES (?1, ?2, ?3)")?
                .execute((&endpoint.container, u32::from(address), record))?;
            Ok((endpoint, more))
        })
    }

    /// Forgets an endpoint; none is no error.
    pub(crate) fn remove(&self, container: &str) -> Result<(), Error> {
        self.database.write(|tx| {
            tx.prepare_cached("DELETE FROM net_endpoints WHERE container = ?1")?.execute([container])?;
            Ok(())
        })
    }
}

fn parse(container: String, record: &str) -> Result<Endpoint, Error> {
    serde_json::from_str(record).map_err(|source| Error::Record { container, source })
}

fn wished(db: &Connection, pool: Pool, address: Ipv4Addr) -> Result<Ipv4Addr, Error> {
    if address == pool.gateway.addr() {
        return Err(Error::AddressInUse { address, holder: "the bridge".into() });
    }
    if !pool.offers(address) {
        return Err(Error::AddressOutside { address, subnet: pool.subnet() });
    }
    let holder: Option<String> = db
        .query_row("SELECT container FROM net_endpoints WHERE address = ?1", [u32::from(address)], |row| {
            row.get(0)
        })
        .optional()?;
    holder.map_or(Ok(address), |holder| Err(Error::AddressInUse { address, holder }))
}

/// The lowest free address, as Docker gives it: scripts know that the first container is `.2`.
fn next_free(db: &Connection, pool: Pool) -> Result<Ipv4Addr, Error> {
    let (first, last) = pool.range();
    let gateway = u32::from(pool.gateway.addr());
    let mut statement = db.prepare_cached(
        "SELECT address FROM net_endpoints WHERE address BETWEEN ?1 AND ?2 ORDER BY address",
    )?;
    let mut candidates = (first..=last).filter(|address| *address != gateway);
    let mut candidate = candidates.next();
    for taken in statement.query_map([first, last], |row| row.get::<_, u32>(0))? {
        if Some(taken?) != candidate {
            break;
        }
        candidate = candidates.next();
    }
    candidate.map(Ipv4Addr::from).ok_or(Error::AddressesExhausted { subnet: pool.subnet() })
}

/// The container that has published a port this one collides with. Only asked when the kernel has refused one.
fn holder(db: &Connection, port: &PublishedPort) -> Result<Option<String>, Error> {
    let mut statement = db.prepare_cached("SELECT container, record FROM net_endpoints")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    for row in rows {
        let (container, record) = row?;
        // A damaged record is not the fault of the one who asks.
        let Ok(endpoint) = parse(container, &record) else { continue };
        if endpoint.ports.iter().any(|other| ports::collide(other, port)) {
            return Ok(Some(endpoint.container));
        }
    }
    Ok(None)
}
