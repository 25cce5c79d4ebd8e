//! One unfused loop nest per node.
