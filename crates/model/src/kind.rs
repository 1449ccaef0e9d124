//! What sort of failure an error is: the only thing an edge needs to choose a status.

/// The sort of a failure. Each library error has a `kind()`; the HTTP, gRPC and exit code mappings are made from it
/// once, at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller's input is wrong and will be wrong again.
    InvalidParameter,
    /// The named thing does not exist.
    NotFound,
    /// The request contradicts the present state (name in use, container running).
    Conflict,
    /// The thing is already as asked; not a failure for most callers.
    NotModified,
    /// The caller may not do this.
    Forbidden,
    /// Something needed is not reachable now; trying again may help.
    Unavailable,
    /// Not part of this engine.
    NotImplemented,
    /// A deadline passed.
    Deadline,
    /// Bytes that should be there are gone or damaged.
    DataLoss,
    /// The disk, the quota or another resource is used up.
    Exhausted,
    /// Anything else: a defect of ours or of the machine.
    System,
}
