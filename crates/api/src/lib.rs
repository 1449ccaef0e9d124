//! The Docker Engine API contract: models, versions, errors, stream framing and the client.
