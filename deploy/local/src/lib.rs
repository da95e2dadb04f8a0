//! Servers for tests and for the local stack.
