//! What Linkerd is.
