//! Image names, load, save, import, layers and snapshots, and the one collector.
