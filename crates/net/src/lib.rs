//! Bridge networking: endpoints, addresses, published ports, firewall as a value.
