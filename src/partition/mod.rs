//! Joint graph to forward and backward.
