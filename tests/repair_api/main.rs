//! What a controller watches and writes, on a genuine API server with genuine controllers: that preconditions hold, that budgets
//! refuse, that a suspended Job counts nothing, that a nudge wakes those that were refused. One control plane for all tests; each
//! has a namespace of its own.

mod harness;
mod job;
mod other;
mod removal;
mod retry;
