//! Evidence, verdict, gate.
