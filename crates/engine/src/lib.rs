//! Containers, exec, volumes, events, stats: the domain behind the API. No HTTP types.
