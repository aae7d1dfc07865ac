//! Reports of whole boots, from the objects that a cluster would have.

mod boots;
mod fixtures;
mod golden;
mod hostile;
mod unread;
