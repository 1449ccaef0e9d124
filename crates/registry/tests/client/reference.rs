//! The same calls against a registry that is not ours: an address in `WHARF_TEST_REGISTRY`, or Debian's docker-registry
//! of `../shared/peers` when `WHARF_TEST_REFERENCE` is set.
