//! The vocabulary of Wharf: ids, digests, references, container specifications, filters, events. No I/O.
