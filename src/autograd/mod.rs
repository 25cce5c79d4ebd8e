//! Forward graph to joint graph.
